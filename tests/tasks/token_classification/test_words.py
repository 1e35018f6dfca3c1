"""Tokens know their word, for each kind of vocabulary; long rows are split between words."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from neobert.tasks.token_classification.words import (
    cut_between_words,
    tagged_documents,
    tokens_of_words,
)
from neobert.text_tokenizer import TextTokenizer

ROWS = [["New", "York", "is", "bigger", "."], ["e-mail", "me", "@", "[MASK]"]]


def tokenizer(kind: str) -> TextTokenizer:
    """A small vocabulary in which most words have several pieces."""
    special = ["<pad>", "<unk>", "<s>", "</s>", "[MASK]"]
    if kind == "wordpiece":
        core = Tokenizer(models.WordPiece(unk_token="<unk>"))
        core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=70, special_tokens=special)
    else:
        core = Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=280, special_tokens=special, initial_alphabet=alphabet
        )
    core.train_from_iterator([" ".join(row) for row in ROWS], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        unk_token="<unk>",
        cls_token="<s>",
        sep_token="</s>",
        mask_token="[MASK]",
    )
    return TextTokenizer.of(fast)


@pytest.mark.parametrize("kind", ["wordpiece", "bytes"])
def test_each_word_has_one_first_token_and_its_text(kind: str) -> None:
    text = tokenizer(kind)
    for words, tokens in zip(ROWS, tokens_of_words(text, ROWS), strict=True):
        firsts = [word for _, word, is_first in tokens if is_first]
        assert firsts == list(range(len(words)))
        ids = text.encode([" ".join(words)])[0].tolist()
        assert [number for number, _, _ in tokens] == ids
        for word, written in enumerate(words):
            pieces = [text.core.id_to_token(one) for one, of, _ in tokens if of == word]
            joined = "".join(pieces).replace("##", "").replace("Ġ", "").strip("\U0010ffff")
            assert joined == written


def test_parts_end_between_words_and_lose_nothing() -> None:
    tokens = [
        (number, word, first)
        for number, (word, first) in enumerate(
            [
                (0, True),
                (0, False),
                (1, True),
                (2, True),
                (2, False),
                (2, False),
                (2, False),
                (3, True),
            ]
        )
    ]
    parts = list(cut_between_words(tokens, 3))
    assert [one for part in parts for one in part] == tokens
    assert [len(part) for part in parts] == [3, 3, 2]
    assert all(part[0][2] for part in parts[:2])


@pytest.mark.parametrize("label_all", [False, True])
def test_long_rows_become_several_documents_with_all_words(label_all: bool) -> None:
    text = tokenizer("wordpiece")
    labels = [[1, 2, 0, 3, 0], [4, 0, 0, 5]]
    documents = tagged_documents(text, ROWS, labels, max_length=6, label_all=label_all)
    assert all(len(document.ids) <= 6 for document in documents)
    targets = [target for document in documents for target in document.targets]
    by_word = {word: label for _, label, word in targets if word >= 0}
    assert by_word == dict(enumerate([*labels[0], *labels[1]]))
    assert (len(targets) > len(by_word)) == label_all
    for document in documents:
        assert document.ids[0] == text.start_id
        assert all(0 < place < len(document.ids) - 1 for place, _, _ in document.targets)
