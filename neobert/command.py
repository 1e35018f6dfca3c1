"""``neobert COMMAND …``: every program of the package in one place.

A command that is a module of its own replaces this process, so that signals, exit codes, and the
processes that it starts are those of ``python -m MODULE``.
"""

import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module

from neobert import __version__
from neobert.console import show_messages
from neobert.errors import ConfigError, ExitCode
from neobert.failures import report_failure

PROGRAMS = {
    "train": ("neobert.train", "train, fine-tune or run MTEB; with -m a sweep"),
    "prepare": ("neobert.tools.prepare", "tokenize the data of a run and train nothing"),
    "inspect": ("neobert.tools.inspect_data", "show what a run would read"),
    "plan": ("neobert.tools.plan", "tokens, operations, stages, memory and hours of a run"),
    "launch": ("neobert.tools.launch", "write the job of a run for SLURM, Kubernetes or SkyPilot"),
    "export": ("neobert.export", "write weights that load anywhere, or check a folder"),
    "embed": ("neobert.tools.embed", "sentence vectors of the lines of a file"),
    "fill-mask": ("neobert.tools.mlm_predict", "the likeliest tokens for [MASK]"),
    "perplexity": ("neobert.tools.pseudo_perplexity", "pseudo-perplexity of texts"),
    "average": ("neobert.tools.average", "average the weights of checkpoints"),
    "fine-tuning-report": ("neobert.tools.fine_tuning_report", "a table of fine-tuning runs"),
    "glue-report": ("neobert.tools.glue_report", "the same of GLUE, with published scores"),
    "mteb-report": ("neobert.tools.mteb_report", "a table of MTEB results"),
}
"""Command -> the module that it runs, and what it does."""

OWN = {
    "evaluate": (
        "neobert.commands.evaluate_run",
        "metrics of a checkpoint of a run: RUN [--checkpoint STEP] [key=value …]",
    ),
    "sweep-report": ("neobert.commands.sweep_table", "a table and a plot of a sweep's jobs: DIR"),
    "config": (
        "neobert.commands.settings",
        "list the group files, copy one to edit it, or check a file",
    ),
    "completion": (
        "neobert.command",
        'a line for your shell: eval "$(neobert completion bash)"',
    ),
}
"""The same of commands that run in this process."""

CODES = {
    ExitCode.DONE: "done",
    ExitCode.FAILED: "the settings are right, but the run could not finish",
    ExitCode.WRONG_SETTINGS: "wrong settings, or input that cannot be used",
    ExitCode.INTERRUPTED: "stopped by a signal after a save: the same command resumes",
    ExitCode.ABORTED: "Ctrl-C before there was anything to save, or twice",
}


BASH = """\
_neobert() {
    local line="neobert-train ${COMP_LINE#*${COMP_WORDS[1]}}" word="${COMP_LINE##* }" choices
    if [ "$COMP_CWORD" -eq 1 ]; then
        choices="COMMANDS"
    elif [[ "${COMP_WORDS[1]}" = @(train|prepare) ]]; then
        choices="$(COMP_LINE="$line" COMP_POINT=${#line} neobert train -sc query=bash 2>/dev/null)"
        compopt -o nospace 2>/dev/null
    fi
    COMPREPLY=($(compgen -W "$choices" -- "$word"))
    # The shell breaks words at "=" and completes what follows.
    if [[ "$COMP_WORDBREAKS" = *=* && "$word" = *=* ]]; then
        COMPREPLY=("${COMPREPLY[@]#"${word%"${word##*=}"}"}")
    fi
}
complete -o default -F _neobert neobert
"""
"""Completes commands, and Hydra's groups, options and keys after those that take them."""

SCRIPTS = {
    "bash": BASH,
    "zsh": f"autoload -Uz compinit bashcompinit && compinit && bashcompinit\n{BASH}",
    "fish": "complete -c neobert -f -n __fish_use_subcommand -a 'COMMANDS'\n",
}
"""Shell -> what it evaluates; files are completed after a command only."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns one of :class:`~neobert.errors.ExitCode`."""
    command, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if command in ("-h", "--help", "help"):
        sys.stdout.write(usage())
        return ExitCode.DONE
    if command in ("-V", "--version"):
        sys.stdout.write(f"neobert {__version__}\n")
        return ExitCode.DONE
    if command in PROGRAMS:
        sys.stdout.flush()
        # -P: as an installed program, not with the modules of the current folder.
        os.execv(sys.executable, [sys.executable, "-P", "-m", PROGRAMS[command][0], *rest])
    show_messages()
    try:
        if command == "completion":
            sys.stdout.write(completion(rest[0] if rest else "bash"))
            return ExitCode.DONE
        if command not in OWN:
            raise ConfigError(f"neobert {command}: unknown command; {_hint(command)}")
        code: int = import_module(OWN[command][0]).main(rest)
        return code
    except BaseException as error:
        return report_failure(error)


def _hint(command: str) -> str:
    known = [*PROGRAMS, *OWN]
    close = get_close_matches(command, known, n=1) or (["train"] if "=" in command else [])
    return f"did you mean neobert {close[0]}?" if close else f"must be one of {', '.join(known)}"


def usage() -> str:
    """The page of ``neobert --help``."""
    lines = [f"  {name:20}{meaning}" for name, (_, meaning) in (PROGRAMS | OWN).items()]
    codes = [f"  {code:<20}{meaning}" for code, meaning in CODES.items()]
    modules = [
        f"All but {', '.join(OWN)} are modules too: neobert train is",
        f"python -m {PROGRAMS['train'][0]}, neobert plan is python -m {PROGRAMS['plan'][0]}.",
    ]
    return "\n".join(
        [
            "neobert COMMAND …        neobert COMMAND --help        neobert --version\n",
            *lines,
            "",
            *modules,
            "\nExit codes\n",
            *codes,
            "",
        ]
    )


def completion(shell: str) -> str:
    """What a shell evaluates to complete commands; after a command, files too."""
    if shell in ("-h", "--help"):
        return f"usage: neobert completion [{'|'.join(SCRIPTS)}]\n\n{OWN['completion'][1]}\n"
    if shell not in SCRIPTS:
        raise ConfigError(f"neobert completion {shell}: must be one of {', '.join(SCRIPTS)}")
    return SCRIPTS[shell].replace("COMMANDS", " ".join([*PROGRAMS, *OWN]))
