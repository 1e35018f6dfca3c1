"""The report fills in masked words with the logits of the model, whatever its decoder has."""

import pytest
import torch

from neobert.batch import IGNORE, MaskedBatch, PackedBatch
from neobert.config.model import ModelConfig
from neobert.data.tokenizer import describe_tokenizer
from neobert.model.heads import MaskedLM
from neobert.tasks.pretraining.report import fill_examples
from tests.tasks.contrastive.conftest import word_tokenizer


@pytest.mark.parametrize("decoder", ["logit scale of nGPT", "bias"])
def test_the_report_uses_all_of_the_decoder(decoder: str) -> None:
    tokenizer = describe_tokenizer(word_tokenizer(), "words")
    config = ModelConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        ngpt=decoder != "bias",
    )
    model = MaskedLM(config, tokenizer.vocab_size, 0, decoder_bias=decoder == "bias")
    word = 7
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in ("sz", "decoder.bias"):
                parameter[word] += 50
    text = [
        token for token in tokenizer.tokenizer.get_vocab() if len(token) > 4 and token.isalpha()
    ]
    document = tokenizer.tokenizer(" ".join(text[:9]))["input_ids"]
    inputs = PackedBatch.from_documents([document])
    none = torch.zeros(0, dtype=torch.int64)
    batch = MaskedBatch(inputs, none, torch.full_like(none, IGNORE), 0)
    model.train()
    (example,) = fill_examples(model, tokenizer, [batch])
    assert model.training
    assert "[MASK]" in example.sentence
    assert example.answer in text
    place = document.index(tokenizer.tokenizer.convert_tokens_to_ids(example.answer))
    document[place] = tokenizer.mask_token_id
    with torch.no_grad():
        row = model.eval()(torch.tensor([document])).logits[0, place]
    best = row.softmax(-1)[: len(tokenizer.tokenizer)].topk(3)
    assert [one.probability for one in example.candidates] == pytest.approx(best.values.tolist())
    assert [one.token for one in example.candidates] == [
        tokenizer.tokenizer.decode([token]).strip() for token in best.indices.tolist()
    ]
