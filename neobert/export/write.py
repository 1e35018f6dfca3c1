"""Writes an exported folder: under a temporary name, checked, and only then under its own."""

import shutil
from pathlib import Path

from neobert.config.store import save_config
from neobert.console import get_logger
from neobert.errors import ConfigError
from neobert.export import modeling_neobert
from neobert.export.card import model_card
from neobert.export.check import Finding, run_checks
from neobert.export.convert import (
    MODULE,
    config_json,
    state_of,
    write_sentence_transformers,
    write_tokenizer,
)
from neobert.export.native import CoreClass, NotNativeError, native_class, native_config
from neobert.export.onnx_files import write_onnx
from neobert.export.source import SETTINGS, ExportSource, read_source
from neobert.files import publish_folder, write_json
from neobert.model.eurobert import eurobert_weights
from neobert.model.weight_files import write_weights

log = get_logger(__name__)


def export(
    path: Path,
    output: Path,
    name: str | None = None,
    overwrite: bool = False,
    format_: str = "auto",
    onnx: str | None = None,
) -> list[Finding]:
    """Export what ``path`` names to ``output`` and return what the checks found.

    ``name`` is what the model card's snippets load: the folder, or its future name on the Hub.
    ``format_`` is ``auto``, ``native`` or ``neobert``; ``onnx`` adds ONNX files, ``fp32`` or
    ``int8``. Nothing is left behind if a check fails (:class:`neobert.export.check.ExportError`).
    """
    _refuse_existing(output, overwrite)
    source = read_source(path)
    core = choose_format(source, format_)
    with publish_folder(output) as temporary:
        write_folder(source, temporary, name or str(output), core, onnx)
        return run_checks(temporary, source)


def choose_format(source: ExportSource, format_: str) -> CoreClass | None:
    """The class of transformers to write the folder for; ``None``: ours, with its code.

    Raises ``ConfigError`` where ``native`` was requested and no class is exact.
    """
    kind = source.kind.replace("_", " ")
    try:
        core = None if format_ == "neobert" else native_class(source)
        why = "requested" if core is None else f"{core.architecture} of transformers is exact"
    except NotNativeError as error:
        if format_ == "native":
            raise ConfigError(
                f"--format native: {error}. --format neobert exports with code of ours, which is "
                "loaded with trust_remote_code=True"
            ) from error
        core, why = None, str(error)
    chosen = "neobert format" if core is None else "native format"
    log.info("exporting %s (%s) in %s: %s", source.folder, kind, chosen, why)
    return core


def write_folder(
    source: ExportSource,
    folder: Path,
    name: str,
    core: CoreClass | None = None,
    onnx: str | None = None,
) -> None:
    """All files of an exported folder, unchecked.

    ``core``: see :func:`choose_format`; ``name``, ``onnx``: see :func:`export`.
    """
    max_length = source.encoder.config.max_position_embeddings
    weights = state_of(source.model)
    if core is None:
        config = config_json(source)
        shutil.copyfile(modeling_neobert.__file__, folder / f"{MODULE}.py")
    else:
        config = native_config(source, core)
        weights = eurobert_weights(weights, source.encoder.config.num_attention_heads)
    write_json(config, folder / "config.json")
    write_weights(weights, folder / "model.safetensors", {"format": "pt"})
    write_tokenizer(source.tokenizer, max_length, folder)
    card = model_card(source, name, core, onnx)
    (folder / "README.md").write_text(card, encoding="utf-8")
    if source.settings is not None:
        save_config(source.settings, folder / SETTINGS)
    if source.plot is not None:
        shutil.copyfile(source.plot, folder / "loss.png")
    if source.kind == "encoder":
        width = source.encoder.config.hidden_size
        write_sentence_transformers(folder, width, max_length, source.pooling, source.prompts)
    if onnx is not None:
        write_onnx(source, folder, core, onnx)


def _refuse_existing(output: Path, overwrite: bool) -> None:
    if output.exists() and not output.is_dir():
        raise FileExistsError(f"{output} is a file; name a folder with --output")
    if output.is_dir() and any(output.iterdir()) and not overwrite:
        raise FileExistsError(
            f"{output} is not empty; name another folder, or give --overwrite (in Python "
            "overwrite=True), which moves what is there aside"
        )
