"""A WordPiece vocabulary of one's own, the same in every run (Schuster & Nakajima 2012; BERT).

The trainer of ``tokenizers`` numbers word-inner characters (``##a``) in the order of a hash map and
breaks ties by number, so two runs over one text differ. Here they are numbered beforehand.
"""

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
INNER = "##"
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
    learner.train_from_iterator(texts(), trainer)
    # A new one of the same pieces, to which ##a is an ordinary piece and not a special token.
    model = models.WordPiece(
        vocab=learner.get_vocab(),
        unk_token=SPECIAL["unk_token"],
        continuing_subword_prefix=INNER,
    )
    final = _bert_like(model)
    bounds = [SPECIAL["cls_token"], SPECIAL["sep_token"]]
    final.post_processor = processors.TemplateProcessing(
        single=f"{bounds[0]} $A {bounds[1]}",
        pair=f"{bounds[0]} $A {bounds[1]} $B:1 {bounds[1]}:1",
        special_tokens=[(token, model.token_to_id(token)) for token in bounds],
    )
    return PreTrainedTokenizerFast(tokenizer_object=final, **SPECIAL)


def _bert_like(model: models.WordPiece) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix=INNER)
    return tokenizer


def _alphabet(texts: Iterable[str]) -> list[str]:
    counts: Counter[str] = Counter()
    for text in _normalized(texts):
        counts.update(text)
    for space in [letter for letter in counts if letter.isspace()]:
        del counts[space]
    ranked = sorted(counts, key=lambda letter: (-counts[letter], letter))
    return sorted(ranked[:MOST_CHARACTERS])


def _normalized(texts: Iterable[str]) -> Iterator[str]:
    normalize = normalizers.BertNormalizer(lowercase=True).normalize_str
    return (normalize(text) for text in texts)


def _continues_words(letter: str) -> bool:
    """Whether BERT's splitting leaves ``letter`` inside words: no punctuation, no ideograph."""
    category = unicodedata.category(letter)
    is_ascii_symbol = letter.isascii() and not letter.isalnum()
    return not (category.startswith("P") or is_ascii_symbol or _is_ideograph(letter))


def _is_ideograph(letter: str) -> bool:
    return unicodedata.name(letter, "").startswith(("CJK UNIFIED", "CJK COMPATIBILITY"))
