"""Sentences per second, packed against padded: ``python -m benchmarks.encode RUN``.

The same weights encode the same texts of varying lengths in four ways: by
:class:`neobert.model.encode.TextEncoder`; by ``SentenceTransformer.encode`` from the folder that
``neobert.export`` writes, whose model leaves padding out by itself; by the same with the padding
computed, as most models do; and so in batches as the texts come, as the reference does. Beside
them ``SentenceTransformer.encode`` with a BERT and a ModernBERT of the same size, of random
weights. Rounds alternate, and one thread's CPU time is counted, so that a busy machine changes
little. Then a stream of short texts shows whether memory grows with the corpus.
"""

import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain, islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from benchmarks import harness
from neobert.config.model import ModelConfig
from neobert.console import show_messages
from neobert.data.corpora import read_corpus
from neobert.export.write import export
from neobert.model.encode import EncodeSettings, TextEncoder
from neobert.tools.report_files import markdown_table
from neobert.training.cpu import keep_freed_memory
from neobert.training.start import open_weights
from neobert.training.summary import peak_memory_mib

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

PACKED = "packed (TextEncoder)"
EXPORTED = "sentence-transformers, exported folder"
PADDED = "the same, padding computed"
IN_ORDER = "the same, batches in order"
BERT = "sentence-transformers, BERT of the same size"
MODERNBERT = "sentence-transformers, ModernBERT of the same size"

WARM_UP = 500
"""Short texts that are encoded before memory is looked at."""

Encode = Callable[[Sequence[str]], Float[Tensor, "S E"]]


@dataclass(frozen=True, slots=True)
class Findings:
    """What a run of this program found."""

    model: str
    texts: int
    words: list[int]
    """Shortest, median, longest text."""

    threads: int
    sentences_per_sec: dict[str, list[float]]
    """Way of encoding → sentences per CPU second in each round."""

    ratios: dict[str, float]
    """Median over rounds of packed / another way, by its name."""

    smallest_cosine: float
    """Of packed to padded fp32."""

    smallest_cosine_bf16: float
    added_mib: dict[int, float]
    """Number of short texts in a stream → what encoding it added to the peak memory of the process,
    which had encoded :data:`WARM_UP` of them and the shorter streams before."""


def measure(
    source: Path, texts: Sequence[str], rounds: int, batch_size: int, streams: Sequence[int]
) -> Findings:
    """Encode ``texts`` in all ways, ``rounds`` times in turn, and streams of so many texts."""
    weights = open_weights(source)
    encoder, tokenizer = weights.encoder().eval(), weights.tokenizer
    packed = TextEncoder(encoder, tokenizer, EncodeSettings(tokens_per_batch=4096))
    added = {count: _added(packed, count) for count in streams}  # first: later peaks hide it
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        padded = _padded(weights.folder, Path(place) / "exported", batch_size)
        others = _others(encoder.config, tokenizer, Path(place), batch_size)
        ways: dict[str, Encode] = {PACKED: packed.encode, **padded, **others}
        found = {name: encode(texts) for name, encode in ways.items()}  # also warms up
        timed = {name: partial(_speed, encode, texts) for name, encode in ways.items()}
        speeds = harness.in_turns(timed, rounds)
    reference = found[PADDED]
    few = texts[:: max(1, len(texts) // 100)]
    rounded = TextEncoder(encoder, tokenizer, EncodeSettings(bf16=True)).encode(few)
    lengths = sorted(len(text.split()) for text in texts)
    return Findings(
        model=str(source),
        texts=len(texts),
        words=[lengths[0], lengths[len(lengths) // 2], lengths[-1]],
        threads=torch.get_num_threads(),
        sentences_per_sec=speeds,
        ratios={
            name: harness.median_ratio(speeds[PACKED], rates) for name, rates in speeds.items()
        },
        smallest_cosine=_smallest_cosine(found[PACKED], reference),
        smallest_cosine_bf16=_smallest_cosine(rounded, reference[:: max(1, len(texts) // 100)]),
        added_mib=added,
    )


def sample(count: int) -> list[str]:
    """Texts of the Factbook as they come: a few words to some hundred."""
    texts = read_corpus("factbook")["train"]
    return texts[:: max(1, len(texts) // count)][:count]


def markdown(found: Findings) -> str:
    """The findings as a table."""
    lines = [
        "# Encoding: packed against padded",
        "",
        f"{found.model}: {found.texts} texts of {found.words[0]} to {found.words[2]} words (median "
        f"{found.words[1]}), {found.threads} thread(s), fp32, rounds in turn.",
        "",
    ]
    head = ["way", "sentences per CPU second, median", "rounds", "packed is faster by"]
    rows = [
        (
            name,
            f"{statistics.median(rates):.0f}",
            ", ".join(f"{rate:.0f}" for rate in rates),
            f"{found.ratios[name]:.2f} ×",
        )
        for name, rates in found.sentences_per_sec.items()
    ]
    lines += markdown_table(head, rows)
    grown = ", ".join(f"{mib:.0f} MiB by {count:,}" for count, mib in found.added_mib.items())
    lines += [
        "",
        f"Smallest cosine to the padded fp32 vectors: {found.smallest_cosine:.6f} (fp32), "
        f"{found.smallest_cosine_bf16:.6f} (bf16).",
        f"Added to the peak memory by streams of short texts, one after the other: {grown}.",
    ]
    return "\n".join(lines) + "\n"


def short_texts(count: int) -> Iterator[str]:
    """``count`` different texts of 8 words, made on demand."""
    texts = chain.from_iterable(repeat(read_corpus("factbook")["train"]))
    words = chain.from_iterable(text.split() for text in texts)
    return (f"{number} {' '.join(islice(words, 7))}" for number in range(count))


def _padded(folder: Path, exported: Path, batch_size: int) -> dict[str, Encode]:
    from sentence_transformers import SentenceTransformer

    export(folder, exported, format_="neobert")
    longest = open_weights(folder).config.max_position_embeddings

    def way(attention: str) -> Encode:
        model = SentenceTransformer(
            str(exported),
            trust_remote_code=True,
            device="cpu",
            model_kwargs={"attn_implementation": attention},
        )
        model.max_seq_length = longest
        return _encode(model, batch_size)

    padding = way("eager")

    def in_order(texts: Sequence[str]) -> Tensor:
        starts = range(0, len(texts), batch_size)
        return torch.cat([padding(texts[start : start + batch_size]) for start in starts])

    return {EXPORTED: way("sdpa"), PADDED: padding, IN_ORDER: in_order}


def _others(
    shape: ModelConfig, tokenizer: PreTrainedTokenizerFast, place: Path, batch_size: int
) -> dict[str, Encode]:
    """Third-party models with as many numbers in each of as many layers, and the same tokens."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, ModernBertConfig, ModernBertModel

    size = {
        "vocab_size": len(tokenizer),
        "hidden_size": shape.hidden_size,
        "num_hidden_layers": shape.num_hidden_layers,
        "num_attention_heads": shape.num_attention_heads,
        "max_position_embeddings": shape.max_position_embeddings,
        "pad_token_id": tokenizer.pad_token_id,
    }
    gated = -(-shape.intermediate_size * 2 // 3 // 8) * 8  # three matrices where BERT has two
    models = {
        BERT: BertModel(BertConfig(intermediate_size=shape.intermediate_size, **size)),
        MODERNBERT: ModernBertModel(ModernBertConfig(intermediate_size=gated, **size)),
    }
    ways: dict[str, Encode] = {}
    for name, model in models.items():
        folder = place / type(model).__name__
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        transformer = Transformer(str(folder), max_seq_length=shape.max_position_embeddings)
        modules = [transformer, Pooling(shape.hidden_size, "mean")]
        ways[name] = _encode(SentenceTransformer(modules=modules, device="cpu"), batch_size)
    return ways


def _encode(model: "SentenceTransformer", batch_size: int) -> Encode:
    def encode(texts: Sequence[str]) -> Tensor:
        return model.encode(
            list(texts), batch_size=batch_size, show_progress_bar=False, convert_to_tensor=True
        )

    return encode


def _speed(encode: Encode, texts: Sequence[str]) -> float:
    return len(texts) / harness.seconds_of(lambda: encode(texts))


def _smallest_cosine(one: Float[Tensor, "S E"], two: Float[Tensor, "S E"]) -> float:
    return float(torch.cosine_similarity(one.float(), two.float()).min())


def _added(encoder: TextEncoder, count: int) -> float:
    """Vectors are dropped as they come, so what stays is what encoding itself needs."""
    for number in (WARM_UP, count):
        before = peak_memory_mib()
        for _ in encoder.encode_parts(short_texts(number)):
            pass
    return round(peak_memory_mib() - before, 1)


def main(argv: list[str] | None = None) -> int:
    """Measure and report; 1 if the model cannot be used."""
    parser = harness.command("encode", __doc__, rounds=5, output=None)
    parser.add_argument("model", type=Path, help="a run or one of its checkpoints")
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument(
        "--batch-size", type=int, default=32, help="of sentence-transformers, whose default it is"
    )
    parser.add_argument(
        "--streams", type=int, nargs="*", default=[2000, 40000], help="numbers of short texts"
    )
    options = parser.parse_args(argv)
    show_messages()
    keep_freed_memory()
    try:
        texts, streams = sample(options.texts), sorted(options.streams)
        found = measure(options.model, texts, options.rounds, options.batch_size, streams)
    except (ValueError, OSError) as error:
        harness.log.error("%s", error)
        return 1
    harness.save(options.output, asdict(found), markdown(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
