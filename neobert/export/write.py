"""Writes an exported folder: under a temporary name, checked, and only then under its own."""

import shutil
from pathlib import Path

from safetensors.torch import save_file

from neobert.config.store import save_config
from neobert.console import get_logger
from neobert.export import modeling_neobert
from neobert.export.card import model_card
from neobert.export.check import Finding, run_checks
from neobert.export.convert import (
    MODULE,
    config_json,
    weights,
    write_tokenizer,
)
from neobert.export.embedding import write_sentence_transformers
from neobert.export.source import SETTINGS, Source, read_source
from neobert.files import publish_folder, write_json

log = get_logger(__name__)


def export(
    path: Path, output: Path, name: str | None = None, overwrite: bool = False
) -> list[Finding]:
    """Export what ``path`` names to ``output`` and return what the checks found.

    ``name`` is what the model card's snippets load: the folder, or its future name on the Hub.
    Nothing is left behind if a check fails (:class:`neobert.export.check.ExportError`).
    """
    _refuse_existing(output, overwrite)
    source = read_source(path)
    log.info("exporting %s (%s)", source.folder, source.kind.replace("_", " "))
    with publish_folder(output) as temporary:
        write_folder(source, temporary, name or str(output))
        return run_checks(temporary, source)


def write_folder(source: Source, folder: Path, name: str) -> None:
    """All files of an exported folder, unchecked."""
    tokenizer = source.tokenizer
    max_length = source.encoder.config.max_position_embeddings
    write_json(config_json(source), folder / "config.json")
    save_file(weights(source.model), folder / "model.safetensors", metadata={"format": "pt"})
    write_tokenizer(tokenizer, max_length, folder)
    shutil.copyfile(modeling_neobert.__file__, folder / f"{MODULE}.py")
    (folder / "README.md").write_text(
        model_card(source, name, tokenizer.mask_token), encoding="utf-8"
    )
    if source.settings is not None:
        save_config(source.settings, folder / SETTINGS)
    if source.plot is not None:
        shutil.copyfile(source.plot, folder / "loss.png")
    if source.kind == "encoder":
        width = source.encoder.config.hidden_size
        write_sentence_transformers(folder, width, max_length, source.pooling, source.prompts)


def _refuse_existing(output: Path, overwrite: bool) -> None:
    if output.exists() and not output.is_dir():
        raise FileExistsError(f"{output} is a file; name a folder with --output")
    if output.is_dir() and any(output.iterdir()) and not overwrite:
        raise FileExistsError(
            f"{output} is not empty; name another folder, or give --overwrite, which moves what is "
            "there aside"
        )
