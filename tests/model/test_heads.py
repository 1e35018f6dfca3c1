"""The model computes what the published one computes: golden values A to C of the reference."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from neobert.batch import PackedBatch
from neobert.model.encoder import Encoder
from neobert.model.heads import ClassifierSettings, MaskedLM, SequenceClassifier

IDS = torch.tensor([[2, 5, 7, 3, 0, 0], [2, 4, 9, 8, 6, 3]])
MASK = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
DOCUMENTS = [[2, 5, 7, 3], [2, 4, 9, 8, 6, 3]]

# fmt: off
SWIGLU_RMSNORM_ROPE = {
    (0, 0): [1.02407, 0.2254, 1.21875, 1.89025, 0.29693, 1.95608, 0.51259, 0.82208, 0.04553,
             0.46582, 2.73968],
    (0, 3): [1.29684, -1.2559, 0.62417, 1.29385, -2.2154, 2.18194, 0.32727, -0.39531, -0.80343,
             0.82775, -0.17625],
    (1, 5): [1.78369, -0.14241, 1.15978, 1.17896, -1.24545, 2.07955, -0.3068, -0.20886, -1.81822,
             1.03318, 0.97796],
}
GELU_LAYERNORM_LEARNED = {
    (0, 0): [0.36922, 0.13866, -1.08741, 1.32799, 1.26978, -1.92715, 1.31726, -0.5338, 2.04062,
             2.2832, 0.79253],
    (1, 5): [0.07929, -0.64544, -1.28901, 0.7192, 0.46437, -1.70257, 2.04823, -0.62323, 1.23575,
             1.8158, 0.0767],
}
CLASSIFIER = [[-0.46381, -0.00575, 0.69254], [0.97416, 1.42383, 1.0421]]
# fmt: on

OTHER = {"hidden_act": "gelu", "rms_norm": False, "rope": False}


@pytest.mark.proves(
    "model.hidden_size",
    "model.num_hidden_layers",
    "model.num_attention_heads",
    "model.intermediate_size",
    "model.hidden_act",
    "model.rms_norm",
    "model.rope",
    "model.norm_eps",
)
@pytest.mark.parametrize(
    ("changes", "golden"), [({}, SWIGLU_RMSNORM_ROPE), (OTHER, GELU_LAYERNORM_LEARNED)]
)
def test_logits_are_those_of_the_published_model(tiny, fill, changes, golden) -> None:
    model = fill(MaskedLM(tiny(**changes), vocab_size=11, pad_token_id=0))
    logits = model(IDS, MASK).logits
    for place, expected in golden.items():
        assert_close(logits[place], torch.tensor(expected), atol=1e-5, rtol=0)


def test_classifier_scores_are_those_of_the_published_model(tiny, fill) -> None:
    model = fill(
        SequenceClassifier(Encoder(tiny(), 11, 0), 3, ClassifierSettings(dropout=0.1, init_std=1.0))
    )
    scores = model(PackedBatch.from_documents(DOCUMENTS))
    assert_close(scores, torch.tensor(CLASSIFIER), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        OTHER,
        {"num_attention_heads": 4, "rope_theta": 100.0, "norm_eps": 0.1},
        {"attn_backend": "flash_attn_varlen", "kernel_backend": "torch"},
        {"ngpt": True, "base_scale": 0.1},
        {"tie_word_embeddings": True, "num_hidden_layers": 3, "intermediate_size": 40},
    ],
)
def test_a_document_in_a_packed_row_is_computed_as_if_alone(tiny, fill, changes) -> None:
    model = fill(MaskedLM(tiny(**changes), 11, 0))
    lengths = torch.tensor([4, 6, 2])  # the last document is padding
    packed = PackedBatch(
        input_ids=torch.tensor([*DOCUMENTS[0], *DOCUMENTS[1], 0, 0]),
        position_ids=torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 0, 1]),
        cu_seqlens=torch.tensor([0, 4, 10, 12], dtype=torch.int32),
        max_seqlen=12,
        num_tokens=10,
        row_length=12,
    )
    alone = model(IDS, MASK).last_hidden_state[MASK.bool()]
    assert packed.lengths.tolist() == lengths.tolist()
    assert_close(model.hidden(packed)[:10], alone, atol=1e-6, rtol=0)


def test_padding_may_stand_on_either_side(tiny, fill) -> None:
    model = fill(MaskedLM(tiny(), 11, 0))
    right = model(IDS, MASK).logits[0, :4]
    left = model(IDS.roll(2, dims=1), MASK.roll(2, dims=1)).logits[0, 2:]
    assert_close(left, right)


def test_outputs_under_the_mask_are_zero(tiny, fill) -> None:
    output = fill(MaskedLM(tiny(), 11, 0))(IDS, MASK)
    assert not output.logits[0, 4:].any()
    assert not output.last_hidden_state[0, 4:].any()


def test_the_decoder_is_the_embedding_unless_untied(tiny) -> None:
    tied = MaskedLM(tiny(tie_word_embeddings=True), 11, 0)
    assert tied.decoder.weight is tied.model.encoder.weight
    untied = MaskedLM(tiny(tie_word_embeddings=False), 11, 0)
    assert untied.decoder.weight is not untied.model.encoder.weight


@pytest.mark.proves("model.embedding_init_range", "model.decoder_init_range")
def test_weights_start_uniform_within_the_configured_half_widths(tiny) -> None:
    config = tiny(hidden_size=64, embedding_init_range=0.5, decoder_init_range=0.1, rope=False)
    model = MaskedLM(config, vocab_size=101, pad_token_id=0)
    for module in model.modules():
        if isinstance(module, nn.Embedding | nn.Linear):
            half_width = 0.5 if isinstance(module, nn.Embedding) else 0.1
            assert module.weight.abs().max() <= half_width
            # The standard deviation of a uniform variable on [-a, a] is a / sqrt(3).
            assert module.weight.std().item() == pytest.approx(half_width / 3**0.5, rel=0.05)


def test_classifier_layers_start_normal(tiny) -> None:
    model = SequenceClassifier(
        Encoder(tiny(hidden_size=128), 11, 0), 64, ClassifierSettings(init_std=0.3)
    )
    for layer in (model.dense, model.classifier):
        assert layer.weight.std().item() == pytest.approx(0.3, rel=0.05)
        assert not layer.bias.any()


def test_the_state_dict_has_the_published_names(tiny) -> None:
    names = set(MaskedLM(tiny(num_hidden_layers=1), 11, 0).state_dict())
    block = "model.transformer_encoder.0."
    assert names == {
        "model.encoder.weight",
        f"{block}attention_norm.weight",
        f"{block}qkv.weight",
        f"{block}wo.weight",
        f"{block}ffn_norm.weight",
        f"{block}ffn.w1.weight",
        f"{block}ffn.w2.weight",
        f"{block}ffn.w3.weight",
        "model.layer_norm.weight",
        "decoder.weight",
    }


def test_the_classifier_drops_before_its_last_layer(tiny) -> None:
    config = tiny()
    model = SequenceClassifier(
        Encoder(config, 11, 0), 3, ClassifierSettings(dropout=1.0, init_std=1.0)
    ).train()
    nn.init.ones_(model.dense.bias)
    nn.init.ones_(model.classifier.bias)
    # Everything dropped: only the last bias is left.
    scores = model(PackedBatch.from_documents(DOCUMENTS))
    assert_close(scores, torch.ones(2, 3))


def test_the_head_is_the_chosen_one(tiny, fill) -> None:
    encoder = fill(Encoder(tiny(), 11, 0))
    batch = PackedBatch.from_documents(DOCUMENTS)
    states = encoder(batch).split([4, 6])
    first = torch.stack([states[0][0], states[1][0]])
    mean = torch.stack([part.mean(0) for part in states])
    for pooling, pooled in (("cls", first), ("avg", mean)):
        for name, activation in (("tanh", torch.tanh), ("gelu", nn.GELU()), ("none", None)):
            settings = ClassifierSettings(activation=name, pooling=pooling, init_std=1.0)
            model = SequenceClassifier(encoder, 3, settings)
            if activation is None:
                assert model.dense is None
                expected = model.classifier(pooled)
            else:
                expected = model.classifier(activation(model.dense(pooled)))
            assert_close(model(batch), expected)
