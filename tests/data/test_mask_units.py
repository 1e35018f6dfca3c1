"""Whole words and spans: never cut, at the wanted share, distributed as in transformers."""

from collections import Counter

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from neobert.data.mask_units import MaskUnits, choose_units, continues_word

CONTINUES = np.array([False, False, True, True])
"""Of the ids 0 to 3: two words, two inner pieces."""


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_words_are_pieces_up_to_the_next_beginning() -> None:
    ids = np.array([0, 2, 3, 1, 2, 9, 2, 2, 0])  # 9 is a special token
    places = np.array([0, 1, 2, 3, 4, 6, 7, 8])
    units = MaskUnits("word", CONTINUES).of(np.minimum(ids, 3), places, generator())
    assert units.tolist() == [0, 0, 0, 1, 1, 2, 2, 3]


def test_spans_never_cross_what_may_not_be_masked() -> None:
    places = np.array([1, 2, 3, 4, 5, 8, 9, 10, 11, 12])
    for seed in range(50):
        units = MaskUnits("span", longest_span=4).of(np.zeros(13, int), places, generator(seed))
        assert units[5] > units[4]


@pytest.mark.parametrize(
    ("units", "mean"),
    [
        (MaskUnits("span", longest_span=3), 2.0),
        (MaskUnits("span", longest_span=10, geometric=0.2), (1 - 0.8**10) / 0.2),
    ],
)
def test_lengths_of_spans(units: MaskUnits, mean: float) -> None:
    numbers = units.of(np.zeros(50_000, int), np.arange(50_000), generator())
    sizes = np.bincount(numbers)[:-1]
    assert sizes.max() == units.longest_span
    assert sizes.mean() == pytest.approx(mean, rel=0.03)


@pytest.mark.parametrize("kind", ["token", "word", "span"])
def test_the_share_is_reached_and_no_unit_is_cut(kind: str) -> None:
    ids = generator(1).integers(0, 4, 500)
    grouped = MaskUnits(kind, CONTINUES, longest_span=5)
    for seed in range(50):
        units = grouped.of(ids, np.arange(500), generator(seed))
        chosen = choose_units(units, 100, generator(seed))
        assert len(chosen) == 100
        whole = Counter(units.tolist())
        assert all(whole[unit] == n for unit, n in Counter(units[chosen].tolist()).items())


def test_every_token_is_chosen_with_about_the_same_probability() -> None:
    ids = np.tile([0, 2, 3, 1], 100)
    grouped = MaskUnits("word", CONTINUES)
    counts = np.zeros(400)
    for seed in range(2000):
        draw = generator(seed)
        counts[choose_units(grouped.of(ids, np.arange(400), draw), 80, draw)] += 1
    assert counts.reshape(100, 4).mean(0) / 2000 == pytest.approx(0.2, abs=0.01)


def tokenizer_of(*tokens: str) -> PreTrainedTokenizerFast:
    vocabulary = {token: number for number, token in enumerate(("[PAD]", "[UNK]", *tokens))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (("un", "##like", "ly"), [False, True, False]),
        (("Ġun", "like", "Ċ", "ly"), [False, True, False, True]),
        (("▁un", "like", "▁ly"), [False, True, False]),
    ],
)
def test_the_marks_of_three_kinds_of_vocabularies(
    tokens: tuple[str, ...], expected: list[bool]
) -> None:
    table = continues_word(tokenizer_of(*tokens), vocab_size=8)
    assert table[2 : 2 + len(tokens)].tolist() == expected
    assert not table[:2].any()  # special tokens
    assert not table[2 + len(tokens) :].any()  # inert ids


def test_a_vocabulary_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="marks neither"):
        continues_word(tokenizer_of("a", "b"), vocab_size=8)
