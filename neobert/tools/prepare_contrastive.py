"""Tokenise pairs: ``python -m neobert.tools.prepare_contrastive dataset.name=ALLNLI``.

Takes the settings of ``python -m neobert.train task=contrastive``, reads each selected source and
writes its tokens below ``dataset.path`` (or the cache). A run does the same where something is
missing; here it can be done beforehand, on a machine with the network, and anew:
``dataset.force_redownload=true``.
"""

import sys
from collections.abc import Sequence

from neobert.config.checks import ConfigError
from neobert.config.compose import compose_config
from neobert.config.help import help_text
from neobert.console import get_logger, show_messages

log = get_logger("neobert.tools.prepare_contrastive")

WRONG_SETTINGS = 2


def main(words: Sequence[str] | None = None) -> int:
    """Prepare what the settings select; 0, or 2 for settings that cannot be used."""
    words = sys.argv[1:] if words is None else words
    show_messages()
    if {"-h", "--help"} & set(words):
        sys.stdout.write(f"{__doc__}\n{help_text()}")
        return 0
    try:
        _prepare(words)
    except ConfigError as error:
        for problem in error.problems:
            log.error("error: %s", problem)
        return WRONG_SETTINGS
    return 0


def _prepare(words: Sequence[str]) -> None:
    tasks = [word for word in words if word.startswith("task=")]
    config = compose_config([*words] if tasks else ["task=contrastive", *words])
    # Imported late: wrong settings are answered at once.
    from neobert.tasks.contrastive.prepare import prepare_sources, recipe_of
    from neobert.tasks.contrastive.start import open_tokenizer

    recipe = recipe_of(config, open_tokenizer(config))
    force = config.dataset.force_redownload and not config.dataset.load_all_from_disk
    for one in prepare_sources(config, recipe, force=force):
        log.info("%s", one.folder)


if __name__ == "__main__":
    sys.exit(main())
