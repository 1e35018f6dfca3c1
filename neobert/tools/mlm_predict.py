"""Fill in masked words: ``python -m neobert.tools.mlm_predict MODEL "The capital is [MASK]."``.

MODEL is anything that ``neobert.load`` reads. Probabilities are over the full vocabulary. Without
texts they are read from standard input, a line each, and answered as they come: one by one on a
terminal, sixteen at a time from a pipe. One that cannot be answered is named, and the others are
answered.
"""

import argparse
import sys
from itertools import islice

from transformers import PreTrainedTokenizerFast

from neobert.console import get_logger, show_messages
from neobert.data.records import stdin_lines
from neobert.failures import run_program
from neobert.model.fill_mask import Candidate, fill_masks
from neobert.model.heads import MaskedLM
from neobert.text_tokenizer import TextTokenizer
from neobert.tools.arguments import add_device, add_model, number_from, open_model

log = get_logger("neobert.tools.mlm_predict")

TEXTS_AT_ONCE = 16


class MaskFiller:
    """A model and its tokenizer: texts with masks in, the likeliest tokens for each mask out."""

    def __init__(self, model: MaskedLM, tokenizer: PreTrainedTokenizerFast, device: str) -> None:
        if tokenizer.mask_token is None:
            raise ValueError("the tokenizer has no mask token")
        self.model = model.to(device)
        self.tokenizer = tokenizer
        self.text = TextTokenizer.of(tokenizer, matched=[tokenizer.mask_token])

    def fill(self, texts: list[str], top_k: int) -> list[list[list[Candidate]] | str]:
        """Of each text, of each of its masks, the ``top_k`` likeliest tokens, best first.

        For a text that cannot be answered, the reason instead.
        """
        # Whatever the tokenizer calls it, people write [MASK].
        written = [text.replace("[MASK]", self.tokenizer.mask_token) for text in texts]
        documents = self.text.documents(written)
        objections = [self._objection(*pair) for pair in zip(texts, documents, strict=True)]
        good = [ids for ids, problem in zip(documents, objections, strict=True) if problem is None]
        answers = iter(fill_masks(self.model, self.tokenizer, good, top_k) if good else [])
        return [next(answers) if problem is None else problem for problem in objections]

    def _objection(self, text: str, document: list[int]) -> str | None:
        longest = self.model.config.max_position_embeddings
        if self.tokenizer.mask_token_id not in document:
            return f"no {self.tokenizer.mask_token} in the text {text!r}"
        if len(document) > longest:
            return f"a text of {len(document)} tokens; the model takes {longest}: {text[:60]!r}..."
        return None


def answer(text: str, masks: list[list[Candidate]]) -> str:
    """The text, and under it a line per mask."""
    lines = [text]
    for number, candidates in enumerate(masks, start=1):
        words = ", ".join(f"{guess.token} {guess.probability:.4f}" for guess in candidates)
        lines.append(f"  mask {number}: {words}")
    return "\n".join(lines) + "\n"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(
        prog="python -m neobert.tools.mlm_predict", description="Fill in masked words."
    )
    add_model(arguments)
    arguments.add_argument("texts", nargs="*", help="with [MASK] in them; none: standard input")
    arguments.add_argument(
        "--top-k", type=number_from(1), default=5, help="tokens per mask (default 5)"
    )
    add_device(arguments)
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Answer each text; 1 if the model or one of the texts cannot be used."""
    options = parser().parse_args(argv)
    show_messages()
    # One line at a time where somebody types, so that each is answered at once.
    at_once = TEXTS_AT_ONCE if options.texts or not sys.stdin.isatty() else 1
    texts = iter(options.texts or filter(str.strip, stdin_lines(sys.stdin.buffer)))
    try:
        weights = open_model(options)
        filler = MaskFiller(weights.masked_lm().eval(), weights.tokenizer, options.device)
        all_answered = True
        for batch in iter(lambda: list(islice(texts, at_once)), []):
            for text, result in zip(batch, filler.fill(batch, options.top_k), strict=True):
                if isinstance(result, str):
                    log.error("%s", result)
                    all_answered = False
                else:
                    sys.stdout.write(answer(text, result))
                    sys.stdout.flush()
    except (ValueError, OSError) as error:
        log.error("%s", error)
        return 1
    return int(not all_answered)


if __name__ == "__main__":
    run_program(main)
