"""A WordPiece vocabulary of one's own, the same in every run (Schuster & Nakajima 2012; BERT).

The trainer of ``tokenizers`` numbers word-inner characters (``##a``) in the order of a hash map and
breaks ties by number, so two runs over one text differ. Here they are numbered beforehand.
"""

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from neobert.text_tokenizer import bert_template

SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
INNER = "##"
LONGEST_WORD = 100
"""Characters; WordPiece makes a longer one (base64, say) ``[UNK]`` without looking into it."""

MOST_CHARACTERS = 1000
"""The most frequent ones; text in other characters becomes ``[UNK]``."""


def train_wordpiece(texts: Callable[[], Iterable[str]], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a lower-casing WordPiece of at most ``vocab_size`` pieces, special tokens included.

    ``texts`` is called twice: characters are counted before pieces are learned.
    """
    alphabet = _alphabet(texts())
    inner = [f"{INNER}{letter}" for letter in alphabet if _continues_words(letter)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIAL.values(), *inner],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        continuing_subword_prefix=INNER,
        show_progress=False,
    )
    learner = _bert_like(models.WordPiece(unk_token=SPECIAL["unk_token"]))
    learner.train_from_iterator((_without_long_words(text) for text in texts()), trainer)
    # A new one of the same pieces, to which ##a is an ordinary piece and not a special token.
    model = models.WordPiece(
        vocab=learner.get_vocab(),
        unk_token=SPECIAL["unk_token"],
        continuing_subword_prefix=INNER,
        max_input_chars_per_word=LONGEST_WORD,
    )
    final = _bert_like(model)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=final, **SPECIAL)
    tokenizer.backend_tokenizer.post_processor = bert_template(tokenizer)
    return tokenizer


def _without_long_words(text: str) -> str:
    """``text`` less the words that are never looked into; learning from one takes minutes."""
    if all(len(run) <= LONGEST_WORD for run in text.split()):
        return text
    words = pre_tokenizers.BertPreTokenizer().pre_tokenize_str(_normalize(text))
    return " ".join(word for word, _ in words if len(word) <= LONGEST_WORD)


def _normalize(text: str) -> str:
    return str(normalizers.BertNormalizer(lowercase=True).normalize_str(text))


def _bert_like(model: models.WordPiece) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix=INNER)
    return tokenizer


def _alphabet(texts: Iterable[str]) -> list[str]:
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(_normalize(text))
    for space in [letter for letter in counts if letter.isspace()]:
        del counts[space]
    ranked = sorted(counts, key=lambda letter: (-counts[letter], letter))
    return sorted(ranked[:MOST_CHARACTERS])


def _continues_words(letter: str) -> bool:
    """Whether BERT's splitting leaves ``letter`` inside words: no punctuation, no ideograph."""
    category = unicodedata.category(letter)
    is_ascii_symbol = letter.isascii() and not letter.isalnum()
    name = unicodedata.name(letter, "")
    is_ideograph = name.startswith(("CJK UNIFIED", "CJK COMPATIBILITY"))
    return not (category.startswith("P") or is_ascii_symbol or is_ideograph)
