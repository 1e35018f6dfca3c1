"""A vector is that of its text alone, whatever stands beside it, in the order of the texts."""

from collections.abc import Callable

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.testing import assert_close
from transformers import PreTrainedTokenizerFast

from neobert.batch import PackedBatch
from neobert.config.model import ModelConfig
from neobert.model import encode
from neobert.model.encode import EncodeSettings, TextEncoder, by_length
from neobert.model.encoder import Encoder

WORDS = ["the", "a", "of", "in", "capital", "country", "is", "river", "city", "sea"]
TEXTS = ["the capital of the country", "a river", "", "sea " * 50, "the sea", "in a city", "of"]


@pytest.fixture
def encoder(
    tiny: Callable[..., ModelConfig], fill: Callable[[torch.nn.Module], torch.nn.Module]
) -> Encoder:
    encoder = Encoder(tiny(), vocab_size=24, pad_token_id=0)
    fill(encoder)
    return encoder


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: n for n, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    core.enable_truncation(4)  # baked in, as some published tokenizers have it
    core.enable_padding(length=16)
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]")


def one_by_one(encoder: Encoder, texts: list[str], how: str, longest: int = 32) -> torch.Tensor:
    """By the definition: each text alone, its words looked up by hand."""
    rows = []
    for text in texts:
        words = [4 + WORDS.index(word) for word in text.split()]
        ids = [2, *words[: longest - 2], 3]
        with torch.no_grad():
            hidden = encoder(PackedBatch.from_documents([ids]))
        ways = {"avg": hidden.mean(0), "cls": hidden[0], "max": hidden.amax(0)}
        rows.append(ways[how])
    return torch.stack(rows)


@pytest.mark.parametrize("pooling", ["avg", "cls", "max"])
@pytest.mark.parametrize("tokens_per_batch", [1, 9, 8192])
def test_vectors_are_those_of_each_text_alone_in_order(
    encoder, tokenizer, pooling, tokens_per_batch
) -> None:
    settings = EncodeSettings(pooling=pooling, tokens_per_batch=tokens_per_batch)
    vectors = TextEncoder(encoder, tokenizer, settings).encode(TEXTS)
    assert_close(vectors, one_by_one(encoder, TEXTS, pooling), atol=1e-6, rtol=1e-5)


def test_a_prefix_and_a_shorter_maximum(encoder, tokenizer) -> None:
    short = TextEncoder(encoder, tokenizer, EncodeSettings(max_length=6))
    vectors = short.encode(TEXTS, prefix="in the ")
    expected = one_by_one(encoder, [f"in the {text}" for text in TEXTS], "avg", longest=6)
    assert_close(vectors, expected, atol=1e-6, rtol=1e-5)


def test_a_corpus_is_encoded_in_parts_that_join_to_the_whole(
    encoder, tokenizer, monkeypatch
) -> None:
    monkeypatch.setattr(encode, "TEXTS_AT_ONCE", 3)
    texts = TextEncoder(encoder, tokenizer)
    parts = list(texts.encode_parts(iter(TEXTS)))
    assert [part for part, _ in parts] == [TEXTS[:3], TEXTS[3:6], TEXTS[6:]]
    joined = torch.cat([vectors for _, vectors in parts])
    assert_close(joined, one_by_one(encoder, TEXTS, "avg"), atol=1e-6, rtol=1e-5)
    assert_close(texts.encode(TEXTS), joined)
    assert texts.encode([]).shape == (0, 16)


def test_equal_texts_are_computed_once(encoder, tokenizer) -> None:
    tokens = []
    encoder.register_forward_pre_hook(lambda _, inputs: tokens.append(len(inputs[0].input_ids)))
    vectors = TextEncoder(encoder, tokenizer).encode(["a river", "the sea", "a river", "a river"])
    assert tokens == [2 * 4]
    assert torch.equal(vectors[[0, 0]], vectors[[2, 3]])
    assert not torch.equal(vectors[0], vectors[1])


def test_bf16_turns_the_vectors_by_less_than_a_thousandth(encoder, tokenizer) -> None:
    exact = one_by_one(encoder, TEXTS, "avg")
    rounded = TextEncoder(encoder, tokenizer, EncodeSettings(bf16=True)).encode(TEXTS)
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    assert torch.cosine_similarity(rounded, exact).min() > 0.999


def test_batches_go_from_long_to_short_within_their_budget() -> None:
    lengths = [3, 9, 1, 4, 4, 20, 2]
    batches = list(by_length(lengths, 8))
    assert batches == [[5], [1], [3, 4], [0, 6, 2]]
    assert list(by_length([], 8)) == []
