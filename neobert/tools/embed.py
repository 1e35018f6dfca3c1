"""Embed texts: ``python -m neobert.tools.embed MODEL texts.txt --output vectors.npy``.

One line is one text (or one row of a jsonl, json, csv, tsv or parquet file), and one row of the
output: a float32 array (``.npy``) or a Parquet file with
the columns ``text`` and ``embedding``. Lines are read and vectors written as they come, so memory
does not grow with the file. The output appears under its name when it is complete; one that is
there already is replaced with ``--overwrite`` only.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from neobert.console import get_logger, show_messages
from neobert.data.rows import iter_texts
from neobert.failures import run_program
from neobert.files import replacing, user_path
from neobert.model.encode import EncodeSettings, TextEncoder
from neobert.tools.arguments import add_batches, add_model, add_texts, check_length, open_model

log = get_logger("neobert.tools.embed")

POOLING = ("avg", "cls", "max")
Part = tuple[list[str], NDArray[np.float32]]
"""Texts and their vectors."""


def embed_file(
    encoder: TextEncoder,
    texts: Callable[[], Iterator[str]],
    output: Path,
    prefix: str = "",
    normalize: bool = False,
) -> int:
    """Write a vector per text to ``output``; returns the number of texts."""

    def parts() -> Iterator[Part]:
        rows = 0
        for lines, vectors in encoder.encode_parts(texts(), prefix):
            rescaled = torch.nn.functional.normalize(vectors, dim=-1) if normalize else vectors
            yield lines, rescaled.numpy()
            rows += len(lines)
            log.info("%d texts", rows)

    with replacing(output) as temporary:
        if output.suffix == ".parquet":
            return _write_parquet(temporary, parts(), encoder.width)
        if output.suffix == ".npy":
            return _write_npy(temporary, parts(), sum(1 for _ in texts()), encoder.width)
        raise ValueError(f"--output must end in .npy or .parquet, not {output.suffix!r}")


def _write_npy(path: Path, parts: Iterator[Part], rows: int, width: int) -> int:
    """An array of all rows, whose number must be known beforehand."""
    if not rows:  # numpy cannot map an array of no bytes
        with path.open("wb") as file:
            np.save(file, np.zeros((0, width), np.float32))
        return 0
    array, row = open_memmap(path, "w+", np.float32, (rows, width)), 0
    for lines, vectors in parts:
        array[row : row + len(lines)] = vectors
        row += len(lines)
    array.flush()
    return row


def _write_parquet(path: Path, parts: Iterator[Part], width: int) -> int:
    """A row group per part."""
    kind, rows = pa.list_(pa.float32(), width), 0
    schema = pa.schema([("text", pa.string()), ("embedding", kind)])
    with pq.ParquetWriter(path, schema) as file:
        for lines, vectors in parts:
            flat = pa.array(vectors.ravel(), pa.float32())
            columns = [pa.array(lines), pa.FixedSizeListArray.from_arrays(flat, type=kind)]
            file.write_table(pa.table(columns, schema=schema))
            rows += len(lines)
    return rows


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(
        prog="python -m neobert.tools.embed",
        description="Embed the lines of a file, or a column.",
    )
    add_model(arguments)
    add_texts(arguments)
    arguments.add_argument("--output", type=user_path, required=True, help="*.npy or *.parquet")
    arguments.add_argument("--overwrite", action="store_true", help="replace the output if there")
    arguments.add_argument("--pooling", choices=POOLING, default="avg")
    arguments.add_argument("--prefix", default="", help="put before every text")
    arguments.add_argument("--normalize", action="store_true", help="to unit length")
    add_batches(arguments, tokens=16384)
    arguments.add_argument("--bf16", action="store_true", help="compute in bfloat16")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Embed a file; 1 if it or the model cannot be used."""
    options = parser().parse_args(argv)
    show_messages()
    try:
        if options.output.exists() and not options.overwrite:
            raise FileExistsError(
                f"{options.output} exists; name another --output, or give --overwrite"
            )
        weights = open_model(options)
        settings = EncodeSettings(
            pooling=options.pooling,
            max_length=options.max_length,
            tokens_per_batch=options.tokens_per_batch,
            bf16=options.bf16,
        )
        model = weights.encoder().eval().to(options.device)
        check_length(model.config, options.max_length)
        encoder = TextEncoder(model, weights.tokenizer, settings)
        texts = partial(iter_texts, options.texts, "texts", options.text_column)
        rows = embed_file(encoder, texts, options.output, options.prefix, options.normalize)
    except (ValueError, OSError) as error:
        log.error("%s", error)
        return 1
    log.info("%s: %d vectors of width %d", options.output, rows, encoder.width)
    return 0


if __name__ == "__main__":
    run_program(main)
