"""The file that is shipped with the weights, as transformers 4 and 5 use it.

Runs on its own under either version (`make test-transformers4`): it needs nothing else of ours.
"""

import json
import shutil
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from neobert.export import modeling_neobert
from neobert.export.modeling_neobert import (
    NeoBERT,
    NeoBERTConfig,
    NeoBERTForMultipleChoice,
    NeoBERTForQuestionAnswering,
    NeoBERTForSequenceClassification,
    NeoBERTForTokenClassification,
    NeoBERTLMHead,
)

GOLDEN = Path(__file__).parents[1] / "golden"
FILES = ["swiglu_rmsnorm_rope", "gelu_layernorm_learned"]
SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 60,
    "max_position_embeddings": 40,
}
LEARNED = {"rope": False, "rms_norm": False, "hidden_act": "gelu", "tie_word_embeddings": False}
NGPT = {"ngpt": True, "base_scale": 0.125}
VARIANTS = [{}, LEARNED, NGPT]
HEADS = [
    NeoBERTLMHead,
    NeoBERTForSequenceClassification,
    NeoBERTForTokenClassification,
    NeoBERTForQuestionAnswering,
]
CLASSIFIERS = [
    {"classifier_activation": "gelu"},
    {"classifier_activation": "none", "classifier_pooling": "avg"},
]
SCALINGS = [
    {"rope_type": "linear", "factor": 3.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 10},
    {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
]
SCALED = {"rope_scaling": SCALINGS[1]}
AUTO_MAP = {
    "AutoConfig": "modeling_neobert.NeoBERTConfig",
    "AutoModel": "modeling_neobert.NeoBERT",
    "AutoModelForPreTraining": "modeling_neobert.NeoBERTLMHead",
    "AutoModelForMaskedLM": "modeling_neobert.NeoBERTLMHead",
    "AutoModelForMultipleChoice": "modeling_neobert.NeoBERTForMultipleChoice",
    "AutoModelForSequenceClassification": "modeling_neobert.NeoBERTForSequenceClassification",
    "AutoModelForTokenClassification": "modeling_neobert.NeoBERTForTokenClassification",
    "AutoModelForQuestionAnswering": "modeling_neobert.NeoBERTForQuestionAnswering",
}


def make(cls: type = NeoBERTLMHead, **changes: object):
    """A small model, its weights wide enough for differences to show."""
    wide = {"embedding_init_range": 0.5, "decoder_init_range": 0.3, "classifier_init_range": 0.3}
    return cls(NeoBERTConfig(**{**SHAPE, **wide, **changes})).eval()


def texts(lengths: list[int]) -> list[Tensor]:
    return [torch.randint(1, SHAPE["vocab_size"], (length,)) for length in lengths]


def padded(rows: list[Tensor], side: str = "right", width: int | None = None) -> dict[str, Tensor]:
    """Rows of ids, filled up with the pad id 0 on one side, and their 0/1 mask."""
    width = width or max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(rows):
        here = slice(0, len(text)) if side == "right" else slice(width - len(text), width)
        ids[row, here], mask[row, here] = text, 1
    return {"input_ids": ids, "attention_mask": mask}


def published_folder(name: str, folder: Path) -> dict[str, Tensor]:
    """The golden model as its authors publish it: their names and fields, with this file."""
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        config = json.loads(file.metadata()["config"])
    tensors = load_file(GOLDEN / f"{name}.safetensors")
    weights = {key[2:]: value for key, value in tensors.items() if key.startswith("w.")}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config |= {"model_type": "neobert", "architectures": ["NeoBERTLMHead"], "auto_map": AUTO_MAP}
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copy(modeling_neobert.__file__, folder)
    return tensors


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("name", FILES)
def test_the_published_model_gives_its_golden_values(
    name: str, implementation: str, tmp_path: Path
) -> None:
    golden = published_folder(name, tmp_path)
    model, info = AutoModelForMaskedLM.from_pretrained(
        tmp_path,
        trust_remote_code=True,
        attn_implementation=implementation,
        output_loading_info=True,
    )
    assert not any(info.values()), info
    inputs = {name: golden[f"in.{name}"] for name in ("input_ids", "attention_mask")}
    kept = inputs["attention_mask"].bool()
    with torch.no_grad():
        logits = model(**inputs).logits
        hidden = model.model(**inputs)[0]
    assert_close(logits[kept], golden["out.logits"][kept], atol=1e-5, rtol=0)
    assert_close(hidden[kept], golden["out.last_hidden_state"][kept], atol=1e-5, rtol=0)


def fill(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights that are a formula of name order and element (behaviour of the reference, 3.8)."""
    filled = {}
    for index, name in enumerate(sorted(state)):
        count = 2**32
        values = []
        for element in range(state[name].numel()):
            h = (element * 2654435761 + (index + 1) * 2246822519) % count
            h ^= h >> 15
            h = h * 2246822519 % count
            h ^= h >> 13
            u = h / count - 0.5
            values.append(1 + 0.5 * u if name.endswith("norm.weight") else u)
        filled[name] = torch.tensor(values, dtype=torch.float64).float().view(state[name].shape)
    return filled


def test_the_classifier_gives_the_reference_s_values() -> None:
    config = NeoBERTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        vocab_size=11,
        max_length=32,
        norm_eps=1e-5,
        num_labels=3,
    )
    model = NeoBERTForSequenceClassification(config).eval()
    model.load_state_dict(fill(model.state_dict()))
    ids = torch.tensor([[2, 5, 7, 3, 0, 0], [2, 4, 9, 8, 6, 3]])
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1] * 6])
    expected = torch.tensor([[-0.46381, -0.00575, 0.69254], [0.97416, 1.42383, 1.0421]])
    logits = model(ids, mask, token_type_ids=torch.zeros_like(ids)).logits
    assert_close(logits, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_neither_padding_nor_company_nor_its_side_changes_a_text(
    variant: dict, implementation: str
) -> None:
    model = make(attn_implementation=implementation, **variant)
    rows = texts([7, 7, 1, 19, 12])
    right = padded(rows, width=25)
    left = padded(rows, "left", width=25)
    with torch.no_grad():
        of_right, of_left = model(**right).logits, model(**left).logits
        for row, text in enumerate(rows):
            alone = model(text[None]).logits[0]
            assert_close(of_right[row, : len(text)], alone, atol=1e-5, rtol=0)
            assert_close(of_left[row, 25 - len(text) :], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_masks_may_be_of_any_kind(implementation: str) -> None:
    model = make(NeoBERT, attn_implementation=implementation)
    batch = padded(texts([5, 9]))
    ids, mask = batch["input_ids"], batch["attention_mask"]
    kinds = [
        mask.bool(),
        mask.float(),
        mask.to(torch.int8),
        torch.zeros(mask.shape).masked_fill(mask == 0, -torch.inf),
        torch.zeros(mask.shape).masked_fill(mask == 0, torch.finfo(torch.float32).min),
    ]
    expected = model(ids, mask).last_hidden_state[mask.bool()]
    for kind in kinds:
        assert torch.equal(model(ids, kind).last_hidden_state[mask.bool()], expected)
    everything = model(ids).last_hidden_state
    assert_close(model(ids, torch.zeros(ids.shape)).last_hidden_state, everything)
    with pytest.raises(ValueError, match="NaN"):
        model(ids, torch.full(ids.shape, torch.nan))
    with pytest.raises(ValueError, match=r"\(2, 9\), or .* not \(2, 8\)"):
        model(ids, mask[:, 1:])


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_masks_may_depend_on_the_query(implementation: str) -> None:
    model = make(NeoBERT, attn_implementation=implementation)
    first, second = texts([5, 9])
    together = torch.cat([first, second])[None]
    document = torch.tensor([0] * 5 + [1] * 9)
    pairs = (document[:, None] == document)[None]  # (1, S, S): two documents in a row
    additive = torch.zeros(pairs.shape).masked_fill(~pairs, -torch.inf)
    lowest = additive.clamp(min=torch.finfo(torch.float32).min)
    expected = torch.cat([model(text[None])[0][0] for text in (first, second)])
    for mask in (pairs, pairs.long(), pairs.float(), additive, lowest):
        for form in (mask, mask[:, None], mask[:, None].expand(1, 4, 14, 14)):
            assert_close(model(together, form)[0][0], expected, atol=1e-5, rtol=0)
    bias = additive - 0.5 * (torch.arange(14)[:, None] - torch.arange(14)).abs()
    assert (model(together, bias)[0][0] - expected).abs().max() > 1e-2  # a bias is no block

    batch = padded(texts([5, 9]))
    ids, mask = batch["input_ids"], batch["attention_mask"]
    kept = mask.bool()
    expected = model(ids, mask)[0][kept]
    square = kept[:, None] & kept[:, :, None]  # padding sees nothing
    for form in (mask[:, None], mask[:, None, None], square, square[:, None]):
        states = model(ids, form)[0]
        assert states.isfinite().all()
        assert_close(states[kept], expected, atol=1e-5, rtol=0)
    classifier = make(NeoBERTForSequenceClassification, num_labels=4)
    left = padded(texts([6, 3]), "left")
    flat, kept = left["attention_mask"], left["attention_mask"].bool()
    expected = classifier(left["input_ids"], flat).logits
    square = kept[:, None] & kept[:, :, None]
    assert_close(classifier(left["input_ids"], square[:, None]).logits, expected)


def test_ngpt_gives_the_reference_s_values() -> None:
    config = NeoBERTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        vocab_size=11,
        ngpt=True,
    )
    model = NeoBERTLMHead(config).eval()
    state = model.state_dict()
    neutral = {"sz": state.pop("sz")}  # which the reference lacks
    model.load_state_dict(fill(state) | neutral)
    ids = torch.tensor([[2, 5, 7, 3, 0, 0], [2, 4, 9, 8, 6, 3]])
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1] * 6])
    expected = [-0.00272, 0.04333, 0.23835, 0.04033, 0.34606, 0.23068, 0.15465, 0.14719]
    with torch.no_grad():
        logits = model(ids, mask).logits
    assert_close(logits[1, 5, :8], torch.tensor(expected), atol=2e-5, rtol=0)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_a_row_that_is_all_padding_stays_finite(implementation: str) -> None:
    model = make(attn_implementation=implementation)
    batch = padded([*texts([4]), torch.tensor([], dtype=torch.long)])
    logits = model(**batch).logits
    assert logits.isfinite().all()
    assert_close(logits[0], model(batch["input_ids"][:1]).logits[0], atol=1e-5, rtol=0)
    assert model(**padded([torch.tensor([], dtype=torch.long)], width=3)).logits.isfinite().all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_eager_sdpa_and_the_traced_form_agree_in_values_and_gradients(variant: dict) -> None:
    model = make(**variant)
    batch = padded(texts([11, 3, 3, 8]))
    batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)

    def run(forward) -> tuple[Tensor, dict[str, Tensor]]:
        model.zero_grad()
        out = forward(**batch)
        out.loss.backward()
        kept = out.logits[batch["attention_mask"].bool()]
        return kept.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}

    logits, gradients = run(model)
    traced = torch.compile(model, backend="eager", fullgraph=True)  # no kernels: only the trace
    model.config._attn_implementation = "sdpa"
    others = [run(traced)]
    torch._dynamo.reset()
    model.set_attn_implementation("eager")
    others.append(run(model))
    for other_logits, other_gradients in others:
        assert_close(other_logits, logits, atol=1e-5, rtol=0)
        for name, gradient in gradients.items():
            assert_close(other_gradients[name], gradient, atol=1e-6, rtol=1e-4)


def test_rotary_positions_are_relative_and_learned_ones_are_rows() -> None:
    (text,) = texts([9])
    model = make(NeoBERT)
    shifted = model(text[None], position_ids=torch.arange(9)[None] + 5)[0]
    assert_close(shifted, model(text[None])[0], atol=1e-5, rtol=0)
    stretched = model(text[None], position_ids=torch.arange(9)[None] * 2)[0]
    assert (stretched - shifted).abs().max() > 1e-2
    learned = make(NeoBERT, **LEARNED)
    by_default = learned(text[None])[0]
    assert_close(learned(text[None], position_ids=torch.arange(1, 10)[None])[0], by_default)
    with pytest.raises(ValueError, match="learned positions end at 40"):
        learned(torch.ones(1, 41, dtype=torch.long))


@pytest.mark.parametrize("variant", VARIANTS)
def test_embeddings_may_be_given_instead_of_ids(variant: dict) -> None:
    model = make(**variant)
    batch = padded(texts([6, 4]))
    embeds = model.get_input_embeddings()(batch["input_ids"])
    mask = batch["attention_mask"]
    from_ids = model(**batch).logits
    assert_close(model(inputs_embeds=embeds, attention_mask=mask).logits, from_ids)
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model(**batch, inputs_embeds=embeds)
    with pytest.raises(ValueError, match="either"):
        model(attention_mask=mask)
    with pytest.raises(ValueError, match="must be integers of the shape"):
        model(torch.ones(2, 3))


@pytest.mark.parametrize("cls", HEADS)
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_hidden_states_and_attentions_come_on_request(cls: type, implementation: str) -> None:
    model = make(cls, attn_implementation=implementation)
    batch = padded(texts([6, 4]))
    plain = model(**batch)
    assert plain.hidden_states is None
    assert plain.attentions is None
    asked = model(**batch, output_hidden_states=True, output_attentions=True)
    kept = batch["attention_mask"].bool()
    assert len(asked.hidden_states) == SHAPE["num_hidden_layers"] + 1
    embeddings = model.get_input_embeddings()(batch["input_ids"])
    assert_close(asked.hidden_states[0][kept], embeddings[kept])
    last = model.model(**batch).last_hidden_state
    assert_close(asked.hidden_states[-1][kept], last[kept], atol=1e-5, rtol=0)
    assert [weights.shape for weights in asked.attentions] == [(2, 4, 6, 6)] * 2
    assert_close(asked.attentions[0].sum(-1), torch.ones(2, 4, 6))
    assert asked.attentions[0][1, :, :, 4:].max() == 0
    as_tuple = model(**batch, return_dict=False)
    assert isinstance(as_tuple, tuple)
    assert_close(as_tuple[0], plain[0])


# transformers 5.23 calls it activation_checkpointing_enable; 4 has no such name
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated")
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_gives_the_same_gradients(reentrant: bool) -> None:
    model = make(dropout=0.1).train()
    batch = padded(texts([6, 4]))
    gradients = []
    for _ in range(2):
        model.zero_grad()
        torch.manual_seed(1)
        model(**batch, labels=batch["input_ids"]).loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.enable_input_require_grads()
    assert all(block.gradient_checkpointing for block in model.model.transformer_encoder)
    for plain, checkpointed in zip(*gradients, strict=True):
        assert_close(checkpointed, plain)


def test_dropout_is_for_training() -> None:
    model = make(dropout=0.5)
    batch = padded(texts([6, 4]))
    assert torch.equal(model(**batch).logits, model(**batch).logits)
    model.train()
    assert not torch.equal(model(**batch).logits, model(**batch).logits)


@pytest.mark.parametrize("tied", [True, False])
def test_the_vocabulary_can_be_resized(tied: bool) -> None:
    model = make(tie_word_embeddings=tied)
    before = model(torch.arange(1, 9)[None]).logits
    model.resize_token_embeddings(70)
    assert model.config.vocab_size == 70
    assert (model.decoder.weight is model.model.encoder.weight) == tied
    after = model(torch.arange(1, 9)[None]).logits
    assert after.shape == (1, 8, 70)
    assert_close(after[..., :60], before)
    assert model(torch.tensor([[69, 61]])).logits.isfinite().all()


@pytest.mark.parametrize("cls", [NeoBERT, *HEADS])
@pytest.mark.parametrize("variant", [*VARIANTS, {"decoder_bias": True}, *CLASSIFIERS, SCALED])
def test_a_saved_model_comes_back_whole(cls: type, variant: dict, tmp_path: Path) -> None:
    model = make(cls, **variant)
    for parameter in model.parameters():
        parameter.data += torch.randn_like(parameter) / 10  # biases too
    model.save_pretrained(tmp_path)
    again, info = cls.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert not again.training
    batch = padded(texts([30, 12]))
    assert torch.equal(again(**batch)[0], model(**batch)[0])
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    again.save_pretrained(tmp_path / "again")
    assert load_file(tmp_path / "again/model.safetensors").keys() == (
        load_file(tmp_path / "model.safetensors").keys()
    )


@pytest.mark.parametrize("tied", [True, False])
def test_tying_survives_loading(tied: bool, tmp_path: Path) -> None:
    model = make(tie_word_embeddings=tied)
    model.save_pretrained(tmp_path)
    assert ("decoder.weight" in load_file(tmp_path / "model.safetensors")) != tied
    again = NeoBERTLMHead.from_pretrained(tmp_path)
    assert again.config.tie_word_embeddings == tied
    assert (again.decoder.weight is again.model.encoder.weight) == tied
    again.decoder.weight.data.zero_()
    assert (again.model.encoder.weight.abs().max() == 0) == tied


def loads(folder: Path) -> list:
    """The ways in which people load a model."""
    ways = [
        lambda: NeoBERTLMHead.from_pretrained(folder),
        lambda: NeoBERTLMHead.from_pretrained(folder, dtype=torch.float32),
        lambda: NeoBERTLMHead.from_pretrained(folder).to("cpu", torch.float64).float(),
        lambda: NeoBERTLMHead.from_pretrained(folder, dtype=torch.float64).float(),
    ]
    try:
        import accelerate  # noqa: F401 - transformers asks for it where device_map is given
    except ImportError:
        return ways
    return [*ways, lambda: NeoBERTLMHead.from_pretrained(folder, device_map={"": "cpu"})]


def test_rotary_positions_are_right_however_it_is_loaded_and_beyond_the_trained_length(
    tmp_path: Path,
) -> None:
    model = make()
    model.save_pretrained(tmp_path)
    text = torch.randint(1, 60, (1, 3 * SHAPE["max_position_embeddings"]))
    expected = model(text).logits
    for load in loads(tmp_path):
        assert_close(load()(text).logits, expected, atol=1e-5, rtol=0)


def test_bfloat16_is_near_float32(tmp_path: Path) -> None:
    model = make()
    model.save_pretrained(tmp_path)
    batch = padded(texts([200, 60]))
    half = NeoBERTLMHead.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    kept = batch["attention_mask"].bool()
    exact, rounded = model(**batch).logits[kept], half(**batch).logits[kept].float()
    # 8 bits of mantissa, two layers; angles of rounded positions would be off by whole radians
    assert (rounded - exact).abs().mean() < 0.02 * exact.abs().mean()


def test_every_auto_class_finds_its_model(tmp_path: Path) -> None:
    published_folder(FILES[0], tmp_path)
    config = AutoConfig.from_pretrained(tmp_path, trust_remote_code=True)
    assert (config.max_position_embeddings, config.vocab_size) == (64, 96)
    weights = load_file(tmp_path / "model.safetensors")
    for auto, name in [
        (AutoModel, "NeoBERT"),
        (AutoModelForMaskedLM, "NeoBERTLMHead"),
        (AutoModelForPreTraining, "NeoBERTLMHead"),
        (AutoModelForMultipleChoice, "NeoBERTForMultipleChoice"),
        (AutoModelForSequenceClassification, "NeoBERTForSequenceClassification"),
        (AutoModelForTokenClassification, "NeoBERTForTokenClassification"),
        (AutoModelForQuestionAnswering, "NeoBERTForQuestionAnswering"),
    ]:
        model, info = auto.from_pretrained(
            tmp_path, trust_remote_code=True, output_loading_info=True
        )
        assert type(model).__name__ == name
        new = {key for key in info["missing_keys"] if not key.startswith("model.")}
        assert new == set(info["missing_keys"]), "the encoder must be loaded"
        for key, tensor in model.state_dict().items():
            if key in new:  # drawn, not left as it was in memory
                assert tensor.abs().max() < 0.2
                assert key.endswith("bias") or tensor.std() > 0.01
            else:
                stored = key if key in weights else f"model.{key}"
                assert torch.equal(tensor, weights[stored])


def test_an_encoder_alone_loads_into_every_head(tmp_path: Path) -> None:
    encoder = make(NeoBERT)
    encoder.save_pretrained(tmp_path)
    for cls in HEADS:
        loaded = cls.from_pretrained(tmp_path).model.state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in encoder.state_dict().items())


def test_the_configuration_survives_saving_on_either_version(tmp_path: Path) -> None:
    config = NeoBERTConfig(**{**SHAPE, **LEARNED, "max_position_embeddings": 99, "norm_eps": 1e-5})
    config.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert "max_length" not in stored  # transformers 5 refuses to save such a setting of generation
    again = NeoBERTConfig.from_pretrained(tmp_path)
    for name in (
        "max_position_embeddings",
        "norm_eps",
        "rope",
        "tie_word_embeddings",
        "hidden_act",
    ):
        assert getattr(again, name) == getattr(config, name)
    assert NeoBERTConfig(**config.to_dict()).max_position_embeddings == 99
    assert NeoBERTConfig(max_length=512).max_position_embeddings == 512
    for wrong, message in [
        ({"hidden_size": 30}, "multiple of num_attention_heads"),
        ({"hidden_size": 12, "num_attention_heads": 4}, "even"),
        ({"hidden_act": "relu"}, "swiglu or gelu, not 'relu'"),
    ]:
        with pytest.raises(ValueError, match=message):
            NeoBERTConfig(**{**SHAPE, **wrong})


def test_classifiers_learn_what_their_labels_are() -> None:
    batch = padded(texts([6, 4, 5]))
    number = make(NeoBERTForSequenceClassification, num_labels=1)
    values = torch.tensor([0.5, 2.0, -1.0])
    out = number(**batch, labels=values)
    assert_close(out.loss, (out.logits[:, 0] - values).square().mean())
    classes = make(NeoBERTForSequenceClassification, num_labels=4)
    out = classes(**batch, labels=torch.tensor([0, 3, 1]))
    expected = torch.nn.functional.cross_entropy(out.logits, torch.tensor([0, 3, 1]))
    assert_close(out.loss, expected)
    several = make(
        NeoBERTForSequenceClassification,
        num_labels=4,
        problem_type="multi_label_classification",
    )
    targets = torch.eye(4)[:3]
    out = several(**batch, labels=targets)
    chances = out.logits.sigmoid()
    expected = -(targets * chances.log() + (1 - targets) * (1 - chances).log()).mean()
    assert_close(out.loss, expected)


def test_a_classifier_reads_the_first_token_that_is_not_padding() -> None:
    model = make(NeoBERTForSequenceClassification, num_labels=4)
    rows = texts([6, 3])
    left, right = model(**padded(rows, "left")).logits, model(**padded(rows)).logits
    assert_close(left, right, atol=1e-5, rtol=0)


@pytest.mark.parametrize("pooling", ["cls", "avg"])
@pytest.mark.parametrize("activation", ["tanh", "gelu", "none"])
def test_a_classifier_has_the_head_of_its_configuration(activation: str, pooling: str) -> None:
    head = {"classifier_activation": activation, "classifier_pooling": pooling}
    model = make(NeoBERTForSequenceClassification, num_labels=4, **head)
    batch = padded(texts([6, 3]), "left")
    states = model.model(**batch)[0]
    texts_of = [states[0], states[1, 3:]]
    x = torch.stack([text[0] if pooling == "cls" else text.mean(0) for text in texts_of])
    if activation != "none":
        x = getattr(torch.nn.functional, activation)(model.dense(x))
    expected = torch.nn.functional.linear(x, model.classifier.weight, model.classifier.bias)
    assert_close(model(**batch).logits, expected)
    assert ("dense.weight" in model.state_dict()) == (activation != "none")
    dropping = make(NeoBERTForSequenceClassification, classifier_dropout=1.0, **head).train()
    torch.nn.init.ones_(dropping.classifier.bias)
    assert_close(dropping(**batch).logits, torch.ones(2, 2))  # only the last bias is left


def test_a_choice_is_made_between_texts() -> None:
    model = make(NeoBERTForMultipleChoice)
    rows = texts([6, 3, 5, 2])
    flat = padded(rows)
    batch = {name: tensor.unflatten(0, (2, 2)) for name, tensor in flat.items()}
    out = model(**batch, labels=torch.tensor([1, 0]))
    alone = torch.cat([model(text[None, None]).logits for text in rows]).view(2, 2)
    assert_close(out.logits, alone, atol=1e-5, rtol=0)
    expected = torch.nn.functional.cross_entropy(alone, torch.tensor([1, 0]))
    assert_close(out.loss, expected, atol=1e-5, rtol=0)
    embeds = model.model.encoder(flat["input_ids"])[None]
    assert model(inputs_embeds=embeds).logits.shape == (1, 4)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_rotary_scaling_is_that_of_the_trainer(scaling: dict) -> None:
    from neobert.ops.rotary import rotary_table as trainers

    positions = torch.arange(50)
    table = modeling_neobert.rotary_table(positions, 16, 500.0, scaling)
    assert_close(table.unbind(-1), trainers(positions, 16, 500.0, scaling))
    plain = modeling_neobert.rotary_table(positions, 16, 500.0, {})
    assert (table - plain).abs().max() > 0.1


PEFT_TASKS = [
    (NeoBERTForSequenceClassification, "SEQ_CLS", {}),
    (NeoBERTForSequenceClassification, "SEQ_CLS", {"classifier_activation": "none"}),
    (NeoBERTForMultipleChoice, "SEQ_CLS", {"classifier_activation": "gelu"}),
    (NeoBERTForTokenClassification, "TOKEN_CLS", {}),
    (NeoBERTForQuestionAnswering, "QUESTION_ANS", {}),
    (NeoBERT, "FEATURE_EXTRACTION", {}),
    (NeoBERTLMHead, None, {}),
]


# peft 0.21 on transformers 5.23
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
@pytest.mark.parametrize(
    ("cls", "task", "head", "targets"),
    [(*one, ["qkv"]) for one in PEFT_TASKS] + [(*one, "all-linear") for one in PEFT_TASKS[:3]],
)
def test_lora_with_its_defaults_gives_equal_outputs_after_saving(
    cls: type, task: str | None, head: dict, targets: list[str] | str, tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft")
    make(NeoBERT).save_pretrained(tmp_path / "base")

    def fresh(seed: int):
        torch.manual_seed(seed)  # heads that pretraining does not know are drawn anew
        return cls.from_pretrained(tmp_path / "base", **head)

    rows = padded(texts([7, 4]))
    if cls is NeoBERTForMultipleChoice:
        rows = {name: tensor[None] for name, tensor in rows.items()}
    settings = peft.LoraConfig(target_modules=targets, task_type=task, init_lora_weights=False)
    model = peft.get_peft_model(fresh(1), settings)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(**rows)[0].square().sum().backward()
    optimizer.step()
    model.eval().save_pretrained(tmp_path / "adapter")
    expected = model(**rows)[0]
    restored = peft.PeftModel.from_pretrained(fresh(2), tmp_path / "adapter").eval()
    assert torch.equal(restored(**rows)[0], expected)
    if task == "SEQ_CLS" and not head:
        dense = model.base_model.model.classifier.modules_to_save["default"].dense
        assert not torch.equal(dense.weight, model.base_model.model.dense.weight), "not trained"
    merged = restored.merge_and_unload()
    assert_close(merged(**rows)[0], expected, atol=1e-4, rtol=0)  # the sums are in another order
    merged.save_pretrained(tmp_path / "merged")
    again = cls.from_pretrained(tmp_path / "merged")
    assert all(torch.equal(again.state_dict()[name], t) for name, t in merged.state_dict().items())
    assert_close(again(**rows)[0], merged(**rows)[0], atol=1e-5, rtol=0)  # rounding: alignment
    names = load_file(tmp_path / "merged/model.safetensors").keys()
    assert not [name for name in names if name.startswith("classifier.dense")]


@pytest.mark.parametrize("cls", [NeoBERT, *HEADS])
def test_a_copy_of_a_model_stands_alone(cls: type) -> None:
    model = make(cls)
    copy = deepcopy(model)
    batch = padded(texts([7, 4]))
    expected = model(**batch)[0]
    for parameter in model.parameters():
        parameter.data.zero_()
    assert torch.equal(copy(**batch)[0], expected)
    assert copy.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize(
    ("cls", "variant"),
    [(NeoBERT, variant) for variant in [*VARIANTS, SCALED]]
    + [(head, {}) for head in HEADS]
    + [(NeoBERTForSequenceClassification, head) for head in CLASSIFIERS],
)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_legacy_exporter_of_onnx_writes_the_model(
    cls: type, variant: dict, attention: str, tmp_path: Path
) -> None:
    runtime = pytest.importorskip("onnxruntime")
    model = make(cls, **variant)
    model.set_attn_implementation(attention)
    example = padded(texts([7, 4]))
    axes = {0: "rows", 1: "places"}
    names = ["input_ids", "attention_mask"]
    torch.onnx.export(
        model,
        tuple(example[name] for name in names),
        str(tmp_path / "model.onnx"),
        input_names=names,
        output_names=["output"],
        dynamic_axes=dict.fromkeys([*names, "output"], axes),
        opset_version=17,
        dynamo=False,
    )
    session = runtime.InferenceSession(tmp_path / "model.onnx")
    batch = padded(texts([11, 3, 8]))
    output, *_ = session.run(None, {name: batch[name].numpy() for name in names})
    expected = model(**batch)[0]
    kept = batch["attention_mask"].bool() if expected.shape[:2] == (3, 11) else slice(None)
    assert_close(torch.from_numpy(output)[kept], expected[kept], atol=1e-4, rtol=0)


def test_tokens_and_answers_have_losses_of_their_text_only() -> None:
    batch = padded(texts([6, 4]))
    tokens = make(NeoBERTForTokenClassification, num_labels=3)
    labels = torch.full((2, 6), -100)
    labels[0, 2] = 1
    out = tokens(**batch, labels=labels)
    assert out.logits.shape == (2, 6, 3)
    assert_close(out.loss, -out.logits[0, 2].log_softmax(-1)[1])
    answers = make(NeoBERTForQuestionAnswering)
    start, end = torch.tensor([1, 99]), torch.tensor([3, 99])  # 99: outside, ignored
    out = answers(**batch, start_positions=start, end_positions=end)
    expected = -out.start_logits[0].log_softmax(-1)[1] - out.end_logits[0].log_softmax(-1)[3]
    assert_close(out.loss, expected / 2)


def test_flash_attention_says_what_it_needs() -> None:
    model = make()
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="needs the package flash-attn, a CUDA device"):
        model(torch.ones(1, 3, dtype=torch.long))


@pytest.mark.gpu
def test_flash_attention_gives_what_sdpa_gives() -> None:
    pytest.importorskip("flash_attn")
    model = make().to("cuda", torch.bfloat16)
    batch = {key: value.cuda() for key, value in padded(texts([30, 4, 17])).items()}
    kept = batch["attention_mask"].bool()
    expected = model(**batch).logits[kept]
    model.config._attn_implementation = "flash_attention_2"
    assert_close(model(**batch).logits[kept], expected, atol=3e-2, rtol=3e-2)
