"""The tokenizer that lies beside weights: in ``tokenizer/`` of a checkpoint, or in the folder."""

from pathlib import Path

from transformers import PreTrainedTokenizerFast


def saved_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """What ``tokenizer.json`` says, and no class built anew.

    Not through ``AutoTokenizer``, which runs the code of a folder that has some, or asks to. Raises
    ``ValueError`` if there is none, or if it cannot be read.
    """
    for place in (folder / "tokenizer", folder):
        if (place / "tokenizer.json").is_file():
            return _read(place)
    raise ValueError(
        f"{folder} has no tokenizer/tokenizer.json: weights must come with their tokenizer (a fast "
        "one; slow tokenizers have no such file)"
    )


def _read(place: Path) -> PreTrainedTokenizerFast:
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(place)
    except Exception as error:  # tokenizers raises bare Exception for a damaged file
        raise ValueError(f"{place / 'tokenizer.json'} cannot be read: {error}") from error
    if tokenizer.pad_token_id is None:
        raise ValueError(f"{place}: the tokenizer has no pad token")
    return tokenizer
