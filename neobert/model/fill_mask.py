"""Fill in masked tokens: the likeliest tokens for each mask, and their probabilities."""

from dataclasses import dataclass
from itertools import islice

import torch
from transformers import PreTrainedTokenizerFast

from neobert.batch import PackedBatch
from neobert.model.heads import MaskedLM


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token for a mask, and its probability among all tokens."""

    token: str
    probability: float


@torch.no_grad()
def fill_masks(
    model: MaskedLM, tokenizer: PreTrainedTokenizerFast, documents: list[list[int]], top_k: int
) -> list[list[list[Candidate]]]:
    """Of each document of token ids, of each of its masks, the ``top_k`` likeliest tokens.

    Best first. Probabilities are over the whole vocabulary, rows that stand for no token included.
    """
    mask, was_training = tokenizer.mask_token_id, model.training
    batch = PackedBatch.from_documents(documents).to(model.decoder.weight.device)
    places = (batch.input_ids == mask).nonzero().squeeze(1)  # (K,)
    model.eval()
    logits = model.logits(model.hidden(batch, places)).float()  # (K, V)
    model.train(was_training)
    known = logits[:, : len(tokenizer)]
    best = (known - logits.logsumexp(-1, keepdim=True)).exp().topk(min(top_k, known.shape[1]))
    candidates = iter(
        [
            Candidate(str(tokenizer.decode([token])).strip(), p)
            for token, p in zip(*row, strict=True)
        ]
        for row in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    )
    return [list(islice(candidates, document.count(mask))) for document in documents]
