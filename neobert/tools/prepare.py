"""Prepare data and train nothing: ``python -m neobert.tools.prepare dataset=local …``.

Takes the settings of ``python -m neobert.train``, tokenises what a run of these settings reads, and
leaves it in the cache (``dataset.cache_dir``; pairs below ``dataset.path``), where the run finds
it. No GPU is needed. Any number of these programs, on any number of machines with the same cache,
share the work, and one that is killed continues when it is started again. Pairs are made again with
``dataset.force_redownload=true``.
"""

import sys
from collections.abc import Iterator, Sequence

from neobert.config.compose import compose_config
from neobert.config.help import help_text
from neobert.config.root import Config
from neobert.console import get_logger, show_messages
from neobert.errors import ConfigError
from neobert.failures import ending_on_sigterm, report_failure, run_program

log = get_logger("neobert.tools.prepare")


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare what the settings select; returns an exit code as ``neobert.train`` does."""
    arguments = sys.argv[1:] if arguments is None else arguments
    show_messages()
    if {"-h", "--help"} & set(arguments):
        sys.stdout.write(f"{__doc__}\n{help_text()}")
        return 0
    try:
        with ending_on_sigterm():
            for line in _prepare(compose_config(arguments)):
                log.info("%s", line)
    except BaseException as error:
        return report_failure(error)
    return 0


def _prepare(config: Config) -> Iterator[str]:
    """Prepare, and say what is where. Imports late: wrong settings are answered at once."""
    if config.task == "pretraining":
        yield from _prepare_documents(config)
    elif config.task == "contrastive":
        yield from _prepare_pairs(config)
    else:
        raise ConfigError(
            f"task={config.task}: prepares its data in seconds when it starts; only the data of "
            "task=pretraining and task=contrastive can be prepared"
        )


def _prepare_documents(config: Config) -> Iterator[str]:
    from neobert.tasks.pretraining.data import PretrainingDataModule

    data = PretrainingDataModule(config)
    data.setup("fit")
    if data.is_stream:
        raise ConfigError(
            "dataset.streaming=true: a stream is tokenised while it is read; set "
            "dataset.streaming=false, or dataset.pre_tokenize=true"
        )
    for source in data.sources:
        of = f"{source.name}, " if source.name else ""
        for name, store in (("training", source.train_store), ("evaluation", source.eval_store)):
            if store.folder is not None:
                yield (
                    f"{of}{name}: {store.info.documents:,} documents, {store.info.tokens:,} tokens "
                    f"in {store.folder}"
                )


def _prepare_pairs(config: Config) -> Iterator[str]:
    from neobert.tasks.contrastive.prepared_pairs import open_corpus, pair_encoder, prepare_sources
    from neobert.tasks.contrastive.starting_model import open_tokenizer

    tokenizer = open_tokenizer(config)
    force = config.dataset.force_redownload and not config.dataset.load_all_from_disk
    for source in prepare_sources(config, pair_encoder(config, tokenizer), force=force):
        yield str(source.folder)
    corpus = open_corpus(config, tokenizer)
    if corpus is not None:
        yield str(corpus.store.folder)


if __name__ == "__main__":
    run_program(main)
