import pytest
import torch
from torch.testing import assert_close

from neobert.batch import PackedBatch, bounds_of, positions_within
from neobert.config.optimizer import OptimizerConfig
from neobert.losses.mlm import masked_lm_loss
from neobert.model.encoder import Encoder
from neobert.model.heads import ClassifierSettings, MaskedLM, SequenceClassifier
from neobert.model.ngpt import normalize_
from neobert.optim.build import build_optimizer

IDS = torch.tensor([[2, 5, 7, 3, 0, 0], [2, 4, 9, 8, 6, 3]])
MASK = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
DOCUMENTS = [[2, 5, 7, 3], [2, 4, 9, 8, 6, 3]]

# fmt: off
GOLDEN = {
    (0, 0): [-0.30356, -0.29245, -0.03467, -0.27445, -0.48628, 0.10546, -0.32719, -0.17287,
             0.11765, -0.15562, -0.1728],
    (1, 5): [-0.00272, 0.04333, 0.23835, 0.04033, 0.34606, 0.23068, 0.15465, 0.14719, -0.16028,
             0.21487, 0.46804],
}
# fmt: on


def packed() -> PackedBatch:
    lengths = torch.tensor([4, 6, 2])
    ids = torch.tensor([*DOCUMENTS[0], *DOCUMENTS[1], 0, 0])
    return PackedBatch(ids, positions_within(lengths), bounds_of(lengths), 12, 10, 12)


def lengths_of_vectors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Length of each vector in the space of hidden states, by weight."""
    reads, writes = ("encoder", "decoder", "qkv", "c_fc"), ("wo", "mlp_c_proj")
    found = {}
    for name, weight in model.named_parameters():
        module = name.split(".")[-2] if "." in name else ""
        if module in (*reads, *writes):
            found[name] = weight.detach().norm(dim=1 if module in reads else 0)
    return found


def assert_on_the_sphere(model: torch.nn.Module) -> None:
    lengths = lengths_of_vectors(model)
    assert len(lengths) == 2 + 4 * 2  # two tables, four matrices in each of two blocks
    for length in lengths.values():
        assert_close(length, torch.ones_like(length), atol=1e-5, rtol=0)


@pytest.mark.proves("model.ngpt", "model.base_scale")
def test_with_neutral_additions_the_logits_are_the_references(tiny, fill) -> None:
    model = fill(MaskedLM(tiny(ngpt=True), 11, 0))
    torch.nn.init.constant_(model.sz, model.config.base_scale)
    logits = model(IDS, MASK).logits
    for place, expected in GOLDEN.items():
        assert_close(logits[place], torch.tensor(expected), atol=1e-5, rtol=0)


def test_a_fresh_model_is_on_the_sphere_with_the_papers_scales(tiny) -> None:
    model = MaskedLM(tiny(ngpt=True, base_scale=0.125), 11, 0)
    assert_on_the_sphere(model)
    block = model.model.transformer_encoder[0]
    for scale in (block.attn_alpha, block.mlp_alpha, block.sqk, model.sz):
        assert_close(scale, torch.full_like(scale, 0.125))
    assert_close(block.suv, torch.ones(48))
    assert_close(model.hidden(packed()).norm(dim=-1), torch.ones(12))


def test_base_scale_alone_changes_no_output_of_a_fresh_model(tiny) -> None:
    """It sets how fast the scales learn, not where they start."""
    models = [MaskedLM(tiny(ngpt=True, base_scale=scale), 11, 0) for scale in (0.1, 0.5)]
    weights = {name: w for name, w in models[0].state_dict().items() if w.ndim > 1}
    models[1].load_state_dict(weights, strict=False)
    assert_close(models[0](IDS, MASK).logits, models[1](IDS, MASK).logits)


def test_logits_are_scaled_word_by_word(tiny) -> None:
    model = MaskedLM(tiny(ngpt=True), 11, 0)
    before = model(IDS, MASK).logits
    with torch.no_grad():
        model.sz[4] *= 3
    after = model(IDS, MASK).logits
    assert_close(after[..., 4], 3 * before[..., 4])
    assert_close(after[..., :4], before[..., :4])


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "muonclip"])
def test_fifty_steps_stay_on_the_sphere_and_learn(tiny, optimizer) -> None:
    model = MaskedLM(tiny(ngpt=True), 11, 0)
    config = OptimizerConfig(name=optimizer, lr=0.02, weight_decay=0.0)
    steps = build_optimizer(config, model.named_parameters(), num_heads=2)
    steps.register_step_post_hook(lambda *_: normalize_(model))
    batch, positions = packed(), torch.tensor([1, 5, 7])
    losses = []
    for _ in range(50):
        steps.zero_grad()
        hidden = model.hidden(batch, positions)
        loss = masked_lm_loss(hidden, model.decoder_weight, torch.tensor([5, 4, 8])).sum
        loss.backward()
        steps.step()
        losses.append(loss.item())
    assert_on_the_sphere(model)
    assert losses[-1] < 0.5 * losses[0]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("changes", [{}, {"rope": False}])
def test_packed_and_unpacked_agree(tiny, fill, changes) -> None:
    model = fill(MaskedLM(tiny(ngpt=True, **changes), 11, 0))
    alone = model(IDS, MASK).last_hidden_state[MASK.bool()]
    assert_close(model.hidden(packed())[:10], alone, atol=1e-5, rtol=0)


def test_checkpointing_changes_no_gradient(tiny) -> None:
    encoder = Encoder(tiny(ngpt=True), 11, 0).train()
    gradients = []
    for encoder.gradient_checkpointing in (False, True):
        encoder.zero_grad()
        encoder(packed())[:, 0].sum().backward()
        gradients.append([p.grad.clone() for p in encoder.parameters()])
    assert_close(*gradients)


def test_a_classifier_stands_on_it(tiny) -> None:
    model = SequenceClassifier(Encoder(tiny(ngpt=True), 11, 0), 3, ClassifierSettings())
    scores = model(PackedBatch.from_documents(DOCUMENTS))
    assert scores.shape == (2, 3)
    scores.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_recorded_logits_are_bounded_by_the_learned_scale(tiny) -> None:
    encoder = Encoder(tiny(ngpt=True), 11, 0)
    layer = encoder.attention_layers()[0]
    layer.record_max_logits = True
    encoder(packed())
    # Unit queries and keys at initial scale 1: at most sqrt(D), that of a pair that is aligned.
    assert (layer.max_logits < 8**0.5 + 1e-5).all()
    assert (layer.max_logits > 0).all()
