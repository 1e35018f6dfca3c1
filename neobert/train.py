"""``python -m neobert.train …``: compose, check, run.

A wrong setting is answered before torch is imported.
"""

import os
import sys
from collections.abc import Sequence

from neobert.config.compose import compose_config
from neobert.config.root import Config
from neobert.config.store import to_yaml
from neobert.console import get_logger, show_messages
from neobert.errors import ExitCode
from neobert.failures import ending_on_sigterm, report

log = get_logger("neobert.train")  # __name__ is __main__ here


def main() -> None:
    """Run the command line; exit with one of :class:`~neobert.errors.ExitCode`."""
    show_messages()
    try:
        code = _dispatch(sys.argv[1:])
    except BaseException as error:
        code = report(error)
    sys.exit(code)


def _dispatch(words: list[str]) -> int:
    if {"-h", "--help"} & set(words):
        from neobert.config.help import help_text

        sys.stdout.write(help_text())
        return 0
    if {"-m", "--multirun"} & set(words):
        from neobert.multirun import sweep

        return sweep([word for word in words if word not in ("-m", "--multirun")])
    shows_config, words = _without_config_flag(words)
    config = compose_config(words)
    if shows_config:
        sys.stdout.write(to_yaml(config))
        return 0
    return _run(config, words)


def _run(config: Config, words: Sequence[str]) -> int:
    show_messages(config.debug)
    log.info("%s", chosen(config, words))
    if config.trainer.tune_cpu:
        # Read when torch loads its threads: those that wait spin for microseconds instead of
        # milliseconds. Else a second busy program makes two threads ten times slower than one.
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    from neobert.tasks import Interrupted, run
    from neobert.training.accelerate_file import with_accelerate_file
    from neobert.training.cpu import tune_cpu_if_asked
    from neobert.training.kernels import check_kernels
    from neobert.training.strategy import resolve_strategy
    from neobert.training.trainer import runs_on_cuda

    config = with_accelerate_file(config)
    check_kernels(config)
    if config.task != "mteb":
        resolve_strategy(config, runs_on_cuda(config.trainer))  # refused before any work is done
    tune_cpu_if_asked(config.trainer)
    try:
        with ending_on_sigterm():
            run(config)
    except Interrupted:
        return ExitCode.INTERRUPTED
    return ExitCode.DONE


def chosen(config: Config, words: Sequence[str]) -> str:
    """One line: what runs, and how to choose otherwise."""
    model = config.model
    if config.task == "glue":
        glue = config.glue
        start = glue.pretrained_model_path or glue.pretrained_checkpoint_dir or model.name
        other = "a run of another task" if glue.transfer_from_task else "random weights"
        return (
            f"glue: {glue.task_name} from {start or other}, {config.optimizer.name}, into "
            f"{config.trainer.output_dir} (all settings: --help)"
        )
    if config.task == "mteb":
        name = model.name if model.from_hub else config.mteb_model or config.trainer.output_dir
        return f"mteb: {config.mteb_task_type} with {name} (all settings: --help)"
    shape = f"{model.hidden_size} × {model.num_hidden_layers}"
    data = config.dataset.path or config.dataset.name
    asked = {word.lstrip("+-").partition("=")[0] for word in words}
    others = [group for group in ("model", "dataset", "optimizer") if group not in asked]
    hint = f"; choose others with {' '.join(f'{group}=…' for group in others)}" if others else ""
    return (
        f"{config.task}: model {shape}, dataset {data}, {config.optimizer.name}, into "
        f"{config.trainer.output_dir}{hint} (all settings: --help)"
    )


def _without_config_flag(words: list[str]) -> tuple[bool, list[str]]:
    """``--cfg job`` (also ``-c job``, ``--cfg=job``) shows the settings and runs nothing."""
    kept: list[str] = []
    shows = False
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        if word in ("--cfg", "-c"):
            shows = True
            if waiting and waiting[0] in ("job", "all", "hydra"):
                waiting.pop(0)
        elif word.startswith("--cfg="):
            shows = True
        else:
            kept.append(word)
    return shows, kept


if __name__ == "__main__":
    main()
