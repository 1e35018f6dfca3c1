"""``neobert evaluate RUN``: the metrics of a checkpoint, without training."""

import argparse
import json
import sys
from collections.abc import Sequence

from neobert.library import evaluate


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(
        prog="neobert evaluate",
        description="Evaluate a checkpoint on the data of its run, as the run did. The metrics "
        "are printed as JSON and written to RUN/evaluations/STEP/, with task=mteb to "
        "RUN/mteb/STEP/.",
    )
    arguments.add_argument("run", help="the folder of a run")
    arguments.add_argument(
        "--checkpoint",
        default="latest",
        metavar="STEP",
        help="latest (the newest undamaged one), best, or a step",
    )
    arguments.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="other settings than the run's, e.g. task=mteb mteb_task_type=sts",
    )
    return arguments


def main(argv: Sequence[str]) -> int:
    """Evaluate; raises what ``neobert.evaluate`` raises."""
    options = parser().parse_intermixed_args(argv)
    metrics = evaluate(options.run, options.overrides, options.checkpoint)
    sys.stdout.write(json.dumps(metrics, indent=2) + "\n")
    return 0
