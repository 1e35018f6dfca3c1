"""One text, the same ids in every task and process; special tokens in a text are text."""

import pickle
from collections.abc import Callable, Sequence

import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from neobert.data.tokenizer import describe_tokenizer
from neobert.text_tokenizer import TextTokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROLES = {f"{token.strip('[]').lower()}_token": token for token in SPECIAL}
PIECES = ["a", "b", "mask", "[", "]", "##b", "!", "ab"]
VOCABULARY = {piece: number for number, piece in enumerate([*SPECIAL, *PIECES])}


def wordpiece() -> Tokenizer:
    core = Tokenizer(models.WordPiece(VOCABULARY, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # which leaves [MASK] in one piece
    return core


def wordlevel() -> Tokenizer:
    core = Tokenizer(models.WordLevel(VOCABULARY, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return core


def unigram() -> Tokenizer:
    pieces = [(piece, -1.0 - number) for piece, number in VOCABULARY.items()]
    core = Tokenizer(models.Unigram(pieces, unk_id=1))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return core


def bpe() -> Tokenizer:
    core = Tokenizer(models.BPE(VOCABULARY, [("a", "b")], unk_token="[UNK]", ignore_merges=True))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return core


def built(
    core: Tokenizer, more: Sequence[AddedToken] = (), **roles: str
) -> PreTrainedTokenizerFast:
    core.add_tokens(list(more))
    return PreTrainedTokenizerFast(tokenizer_object=core, **(roles or ROLES))


KINDS = [wordpiece, wordlevel, unigram, bpe]


@pytest.mark.parametrize("kind", KINDS)
def test_no_text_has_a_special_token(kind: Callable[[], Tokenizer]) -> None:
    turn = AddedToken("<|im_start|>", special=True)
    text = TextTokenizer.of(built(kind(), [turn]))
    (ids,) = text.documents(["a [MASK] [CLS] [SEP] [PAD] b <|im_start|> a"])
    special = {VOCABULARY[token] for token in SPECIAL if token != "[UNK]"} | {len(VOCABULARY)}
    assert not special & set(ids[1:-1])
    assert (ids[0], ids[-1]) == (VOCABULARY["[CLS]"], VOCABULARY["[SEP]"])
    assert [ids[1], ids[-2]] == [VOCABULARY["a"]] * 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_in_another_process_gives_the_same_ids(kind: Callable[[], Tokenizer]) -> None:
    text = TextTokenizer.of(built(kind()))
    texts = ["a [MASK] ab !", "", "[SEP]"]
    expected = text.documents(texts)
    assert pickle.loads(pickle.dumps(text)).documents(texts) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_ordinary_text_has_the_ids_of_the_tokenizer_itself(kind: Callable[[], Tokenizer]) -> None:
    word = AddedToken("covid", special=False)
    tokenizer = built(kind(), [AddedToken("<|end|>", special=True), word])
    for sentence in ("a b ab", "covid a", "b ! a"):
        bare = tokenizer.backend_tokenizer.encode(sentence, add_special_tokens=False).ids
        assert TextTokenizer.of(tokenizer).encode([sentence])[0].tolist() == bare


def test_a_letter_with_a_role_stays_a_letter() -> None:
    roles = {**ROLES, "pad_token": "!"}  # as CLIP has it
    text = TextTokenizer.of(built(wordpiece(), **roles))
    copy = pickle.loads(pickle.dumps(text))
    for one in (text, copy):
        assert one.encode(["a ! b", "a!"])[0].tolist()[:3] == [
            VOCABULARY[piece] for piece in ("a", "!", "b")
        ]


def test_a_mask_that_is_asked_for_is_one() -> None:
    text = TextTokenizer.of(built(unigram()), matched=["[MASK]"])
    (ids,) = text.documents(["a [MASK] b [SEP]"])
    assert ids.count(VOCABULARY["[MASK]"]) == 1
    assert ids.count(VOCABULARY["[SEP]"]) == 1  # the one that closes


@pytest.mark.parametrize(
    "roles",
    [
        {"cls_token": "[CLS]", "sep_token": "[SEP]"},
        {"bos_token": "[CLS]", "eos_token": "[SEP]"},
        {},
    ],
)
@pytest.mark.parametrize("has_template", [True, False])
def test_documents_are_wrapped_with_and_without_a_post_processor(
    roles: dict[str, str], has_template: bool
) -> None:
    core = wordpiece()
    if has_template:
        core.post_processor = processors.TemplateProcessing(
            "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    tokenizer = built(core, unk_token="[UNK]", **roles)
    bounds = ([2], [3]) if roles or has_template else ([], [])
    text = TextTokenizer.of(tokenizer)
    assert text.documents(["a b"]) == [[*bounds[0], 5, 6, *bounds[1]]]
    assert text.overhead == len(bounds[0] + bounds[1])


def test_a_document_is_cut_with_its_ends_kept() -> None:
    core = wordpiece()
    core.enable_truncation(3)
    core.enable_padding(length=9)
    text = TextTokenizer.of(built(core))
    assert text.documents(["a b a b", "a"], 4) == [[2, 5, 6, 3], [2, 5, 3]]


def test_merges_are_not_left_out_at_random() -> None:
    core = Tokenizer(models.BPE(VOCABULARY, [("a", "b")], unk_token="[UNK]", dropout=0.5))
    text = TextTokenizer.of(built(core))
    assert text.encode(["ab"] * 50)[0].tolist() == [VOCABULARY["ab"]] * 50


def test_a_word_of_three_megabytes_is_tokenised_in_time() -> None:
    model = models.WordPiece(VOCABULARY, unk_token="[UNK]", max_input_chars_per_word=10**8)
    text = TextTokenizer.of(built(Tokenizer(model)))
    assert text.encode(["a" * 3_000_000])[0].tolist() == [VOCABULARY["[UNK]"]]


def test_a_lower_casing_normalizer_finds_no_special_token() -> None:
    core = wordpiece()
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    text = TextTokenizer.of(built(core, [AddedToken("<Turn>", special=True, normalized=True)]))
    assert len(VOCABULARY) not in text.encode(["a <turn> <Turn> b"])[0]


def test_random_replacements_are_never_special_tokens() -> None:
    added = [AddedToken("<|endoftext|>", special=True), AddedToken("covid", special=False)]
    info = describe_tokenizer(built(wordpiece(), added), "mine")
    assert len(VOCABULARY) not in info.random_ids
    assert len(VOCABULARY) + 1 in info.random_ids
