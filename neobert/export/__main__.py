"""``python -m neobert.export RUN_OR_CHECKPOINT --output DIR``: weights that load anywhere."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from neobert.console import get_logger, show_messages
from neobert.failures import run_program
from neobert.files import user_path

if TYPE_CHECKING:
    from neobert.export.check import Finding

log = get_logger("neobert.export")

DESCRIPTION = """Write a folder that transformers and, for embedding models, sentence-transformers
load, and check it in a process that has only these. Or, with --check, check a folder."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(prog="python -m neobert.export", description=DESCRIPTION)
    arguments.add_argument(
        "source", nargs="?", type=user_path, help="a run (its newest checkpoint) or one checkpoint"
    )
    arguments.add_argument("--output", type=user_path, help="the folder to write")
    arguments.add_argument(
        "--name", help="what the card's snippets load, e.g. me/my-model (default: the folder)"
    )
    arguments.add_argument(
        "--format",
        choices=("auto", "native", "neobert"),
        default="auto",
        help="native: a class of transformers 5, which loads without trust_remote_code, where one "
        "is exactly the model; neobert: our class, with its code, for transformers 4.57 too and "
        "for every architecture; auto (default): native where it is exact",
    )
    arguments.add_argument(
        "--onnx",
        nargs="?",
        choices=("fp32", "int8"),
        const="fp32",
        help="add onnx/model.onnx; int8: a quantised file as well (pip install 'neobert[onnx]')",
    )
    arguments.add_argument(
        "--overwrite", action="store_true", help="move existing contents of the folder aside"
    )
    arguments.add_argument(
        "--check",
        type=user_path,
        metavar="DIR",
        help="look for what is wrong with a folder of weights, whoever made it",
    )
    arguments.add_argument(
        "--python",
        default=sys.executable,
        help="with --check: the Python whose transformers loads the folder",
    )
    arguments.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="with --check: run the folder's code even if it is not what this package ships",
    )
    arguments.add_argument(
        "--json", action="store_true", help="print the findings as one JSON object on stdout"
    )
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Export or check; 0 if every check passed, 1 if not, 2 for a wrong command line."""
    arguments = parser()
    options = arguments.parse_args(argv)
    if (options.check is None) == (options.source is None):
        arguments.error("give either RUN_OR_CHECKPOINT with --output DIR, or --check DIR")
    if options.source is not None and options.output is None:
        arguments.error("--output DIR is missing")
    show_messages()
    # Imported late: --help and a wrong command line are answered at once.
    from neobert.errors import ConfigError
    from neobert.export.check import ExportError, check_folder
    from neobert.export.write import export

    folder = options.check or options.output
    try:
        if options.check is not None:
            findings = check_folder(options.check, options.python, options.trust_remote_code)
        else:
            findings = export(
                options.source,
                options.output,
                options.name,
                options.overwrite,
                options.format,
                options.onnx,
            )
    except (ValueError, OSError) as error:
        bad = error.findings if isinstance(error, ExportError) else []
        log.error("%s", error)
        if options.json:
            print_json(folder, bad, None if bad else str(error))
        return 2 if isinstance(error, ConfigError) else 1
    for finding in findings:
        log.info("ok  %-12s %s", finding.name, finding.detail)
    if options.json:
        print_json(folder, findings, None)
    if options.source is not None:
        log.info("%s is complete; its README.md shows how to use it", options.output)
    return 0


def print_json(folder: Path, findings: "list[Finding]", error: str | None) -> None:
    """One object: folder, whether all is well, each finding; ``error`` if nothing was checked."""
    report = {
        "folder": str(folder),
        "ok": error is None and all(finding.ok for finding in findings),
        "findings": [asdict(finding) for finding in findings],
    }
    sys.stdout.write(json.dumps(report | ({} if error is None else {"error": error})) + "\n")


if __name__ == "__main__":
    run_program(main)
