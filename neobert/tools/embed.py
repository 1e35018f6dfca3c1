"""Embed a text file: ``python -m neobert.tools.embed MODEL texts.txt --output vectors.npy``.

One line is one text, and one row of the output: a float32 array (``.npy``) or a Parquet file with
the columns ``text`` and ``embedding``. Lines are read and vectors written as they come, so memory
does not grow with the file. The output appears under its name when it is complete.
"""

import argparse
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from neobert.batch import PackedBatch
from neobert.console import get_logger, show_messages
from neobert.data.saved_tokenizer import saved_tokenizer
from neobert.model.encoder import Encoder
from neobert.model.pretrained import find_weights, load_encoder

log = get_logger("neobert.tools.embed")

LINES_AT_ONCE = 1024
POOLING = ("avg", "cls", "max")


class Writer(Protocol):
    """Takes the rows in order."""

    def write(self, texts: list[str], vectors: NDArray[np.float32]) -> None:
        """Add rows."""

    def close(self) -> None:
        """No more rows."""


class ArrayWriter:
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


class Embedder:
    """An encoder and its tokenizer: texts in, one vector each out."""

    def __init__(
        self,
        encoder: Encoder,
        tokenizer: PreTrainedTokenizerFast,
        pooling: str = "avg",
        prefix: str = "",
        tokens_per_batch: int = 8192,
    ) -> None:
        self.encoder, self.tokenizer = encoder, tokenizer
        self.pooling, self.prefix, self.tokens_per_batch = pooling, prefix, tokens_per_batch
        self.max_length = encoder.config.max_position_embeddings

    def embed(self, texts: list[str]) -> Float[Tensor, "texts E"]:
        """A row per text, in their order. What is longer than the model takes is cut off."""
        ids: list[list[int]] = self.tokenizer(
            [self.prefix + text for text in texts], truncation=True, max_length=self.max_length
        )["input_ids"]
        # Neighbours of like length: kernels that pad have little to pad then.
        order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
        vectors = torch.cat(
            [self._pooled([ids[row] for row in rows]) for rows in self._parts(order, ids)]
        )
        return torch.empty_like(vectors).index_copy(0, torch.tensor(order), vectors)

    def _parts(self, order: list[int], ids: list[list[int]]) -> Iterator[list[int]]:
        part, tokens = list[int](), 0
        for row in order:
            if part and tokens + len(ids[row]) > self.tokens_per_batch:
                yield part
                part, tokens = [], 0
            part.append(row)
            tokens += len(ids[row])
        yield part

    @torch.no_grad()
    def _pooled(self, documents: list[list[int]]) -> Float[Tensor, "documents E"]:
        # A text without a token would have no mean: it becomes a lone padding token.
        filled = [document or [self.encoder.pad_token_id] for document in documents]
        device = self.encoder.encoder.weight.device
        batch = PackedBatch.from_documents(filled).to(device)
        hidden = self.encoder(batch).float().cpu()  # (T, E)
        pieces = hidden.split([len(document) for document in filled])
        match self.pooling:
            case "cls":
                return torch.stack([piece[0] for piece in pieces])
            case "max":
                return torch.stack([piece.amax(0) for piece in pieces])
            case _:
                return torch.stack([piece.mean(0) for piece in pieces])


def embed_file(embedder: Embedder, texts: Path, output: Path, normalize: bool) -> int:
    """Write a vector per line of ``texts`` to ``output``; the number of lines comes back."""
    temporary = output.with_name(f".{output.name}.incomplete")
    width = embedder.encoder.config.hidden_size
    rows = 0
    try:
        writer = _writer(temporary, output.suffix, texts, width)
        for lines in _chunks(texts):
            vectors = embedder.embed(lines)
            if normalize:
                vectors = torch.nn.functional.normalize(vectors, dim=-1)
            writer.write(lines, vectors.numpy())
            rows += len(lines)
            log.info("%d texts", rows)
        writer.close()
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)
    return rows


def _writer(path: Path, suffix: str, texts: Path, width: int) -> Writer:
    if suffix == ".parquet":
        return ParquetWriter(path, width)
    if suffix == ".npy":
        return ArrayWriter(path, sum(len(lines) for lines in _chunks(texts)), width)
    raise ValueError(f"--output must end in .npy or .parquet, not {suffix!r}")


def _chunks(texts: Path) -> Iterator[list[str]]:
    with texts.open(encoding="utf-8", newline="\n") as file:
        while lines := [line.rstrip("\r\n") for line in islice(file, LINES_AT_ONCE)]:
            yield lines


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(
        prog="python -m neobert.tools.embed", description="Embed the lines of a text file."
    )
    arguments.add_argument("model", help="a run, a checkpoint, an exported folder or a hub id")
    arguments.add_argument("texts", type=Path, help="UTF-8, a text per line")
    arguments.add_argument("--output", type=Path, required=True, help="*.npy or *.parquet")
    arguments.add_argument("--pooling", choices=POOLING, default="avg")
    arguments.add_argument("--prefix", default="", help="put before every text")
    arguments.add_argument("--normalize", action="store_true", help="to unit length")
    arguments.add_argument("--tokens-per-batch", type=int, default=8192)
    arguments.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Embed a file; 1 if it or the model cannot be used."""
    options = parser().parse_args(argv)
    show_messages()
    try:
        folder = find_weights(options.model)
        embedder = Embedder(
            load_encoder(folder).to(options.device),
            saved_tokenizer(folder),
            options.pooling,
            options.prefix,
            options.tokens_per_batch,
        )
        rows = embed_file(embedder, options.texts, options.output, options.normalize)
    except (ValueError, OSError) as error:
        log.error("%s", error)
        return 1
    log.info(
        "%s: %d vectors of width %d", options.output, rows, embedder.encoder.config.hidden_size
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
