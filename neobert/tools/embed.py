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
from typing import Protocol

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
from neobert.tools.arguments import (
    add_batches,
    add_model,
    add_texts,
    check_length,
    open_model,
)

log = get_logger("neobert.tools.embed")

POOLING = ("avg", "cls", "max")


class Writer(Protocol):
    """Takes the rows in order."""

    def write(self, texts: list[str], vectors: NDArray[np.float32]) -> None:
        """Add rows."""

    def close(self) -> None:
        """No more rows."""


class NpyWriter:
    """``.npy``: the number of rows must be known beforehand."""

    def __init__(self, path: Path, rows: int, width: int) -> None:
        # numpy cannot map an array of no bytes.
        shape = (rows, width)
        self.array = open_memmap(path, "w+", np.float32, shape) if rows else np.zeros(shape)
        if not rows:
            with path.open("wb") as file:
                np.save(file, self.array.astype(np.float32))
        self.row = 0

    def write(self, texts: list[str], vectors: NDArray[np.float32]) -> None:
        self.array[self.row : self.row + len(vectors)] = vectors
        self.row += len(vectors)

    def close(self) -> None:
        if isinstance(self.array, np.memmap):
            self.array.flush()


class ParquetWriter:
    """``.parquet``: a row group per call."""

    def __init__(self, path: Path, width: int) -> None:
        self.kind = pa.list_(pa.float32(), width)
        schema = pa.schema([("text", pa.string()), ("embedding", self.kind)])
        self.file = pq.ParquetWriter(path, schema)

    def write(self, texts: list[str], vectors: NDArray[np.float32]) -> None:
        flat = pa.array(vectors.ravel(), pa.float32())
        columns = [pa.array(texts), pa.FixedSizeListArray.from_arrays(flat, type=self.kind)]
        self.file.write_table(pa.table(columns, schema=self.file.schema))

    def close(self) -> None:
        self.file.close()


def embed_file(
    encoder: TextEncoder,
    texts: Callable[[], Iterator[str]],
    output: Path,
    prefix: str = "",
    normalize: bool = False,
) -> int:
    """Write a vector per text to ``output``; returns the number of texts."""
    rows = 0
    with replacing(output) as temporary:
        writer = _writer(temporary, output.suffix, texts, encoder.width)
        for lines, vectors in encoder.encode_parts(texts(), prefix):
            rescaled = torch.nn.functional.normalize(vectors, dim=-1) if normalize else vectors
            writer.write(lines, rescaled.numpy())
            rows += len(lines)
            log.info("%d texts", rows)
        writer.close()
    return rows


def _writer(path: Path, suffix: str, texts: Callable[[], Iterator[str]], width: int) -> Writer:
    if suffix == ".parquet":
        return ParquetWriter(path, width)
    if suffix == ".npy":
        return NpyWriter(path, sum(1 for _ in texts()), width)
    raise ValueError(f"--output must end in .npy or .parquet, not {suffix!r}")


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
