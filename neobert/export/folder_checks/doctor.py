"""Looks for what is wrong with a folder of weights, whoever made it."""

import re
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import torch
import transformers
from torch import Tensor

from .model_folder import ModelFolder, demand, first_names, report_checks

ROTARY = re.compile(r"inv_freq|freqs|rotary|rope|(^|[._])(cos|sin)([._]|$)")
TEXT = "The capital of France is Paris, and an encoder reads a text from both sides."
UNIFORM = 1e-3
"""Attention whose weights differ from 1 / tokens by less than this share sees no difference."""


class Patient(ModelFolder):
    """The folder, and the model in it with attention that can be looked at."""

    @cached_property
    def loaded(self) -> tuple[transformers.PreTrainedModel, dict]:
        """The model in fp32, and transformers' account of the keys."""
        model, info = self.load(
            self.auto_class or "AutoModel",
            attn_implementation="eager",
            ignore_mismatched_sizes=True,
        )
        return model.eval(), info

    @property
    def model(self) -> transformers.PreTrainedModel:
        """The model in fp32, in evaluation mode."""
        return self.loaded[0]

    @property
    def table(self) -> Tensor:
        """The embedding, (V, E)."""
        table = self.model.get_input_embeddings().weight
        assert isinstance(table, Tensor)
        return table.detach()

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        """A text of some tokens, by the tokenizer where its ids fit."""
        rows = len(self.table)
        try:
            batch = dict(self.tokenizer(TEXT, return_tensors="pt"))
        except Exception:  # that is a finding of another check
            batch = {}
        if "input_ids" not in batch or int(batch["input_ids"].max()) >= rows:
            ids = torch.arange(24)[None] % rows
            batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if self.auto_class == "AutoModelForMultipleChoice":
            batch = {name: tensor[:, None] for name, tensor in batch.items()}
        return batch


def check_dtype(patient: Patient) -> str:
    """The stored type is one, and that of ``config.json``."""
    kinds = {str(t.dtype).removeprefix("torch.") for t in patient.weights.values()}
    floats = sorted(kind for kind in kinds if "float" in kind)
    demand(len(floats) == 1, f"weights are stored as {', '.join(floats) or 'no float type'}")
    dtype = patient.config.get("dtype") or patient.config.get("torch_dtype")
    demand(dtype in (None, floats[0]), f"config.json says {dtype}, the weights are {floats[0]}")
    return floats[0]


def check_keys(patient: Patient) -> str:
    """The class has a place for every weight, and a weight for every place."""
    model, info = patient.loaded
    problems = [
        f"{kind.removesuffix('_keys')}: {first_names(sorted(map(str, info[kind])))}"
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
        if info.get(kind)
    ]
    demand(not problems, f"{type(model).__name__}: {'; '.join(problems)}")
    return f"{type(model).__name__}: none missing, none unused"


def check_tie(patient: Patient) -> str:
    """The decoder is the embedding where the configuration says so."""
    decoder = patient.model.get_output_embeddings()
    weight = getattr(decoder, "weight", None)
    if weight is None:
        return "no decoder"
    table = patient.table
    tied = bool(getattr(patient.model.config, "tie_word_embeddings", True))
    names = {id(p): name for name, p in patient.model.named_parameters(remove_duplicate=False)}
    stored = patient.weights.get(names.get(id(weight), ""), weight.detach())
    same_shape = stored.shape == table.shape
    same = same_shape and torch.equal(stored.float(), table.float())
    if tied:
        far = float((stored.float() - table).abs().max()) if same_shape else float("nan")
        demand(
            same and weight.data_ptr() == table.data_ptr(),
            "tie_word_embeddings is true, but the decoder is not the embedding (largest "
            f"difference {far:.3g})",
        )
        return "tied"
    demand(not same, "the decoder equals the embedding, but tie_word_embeddings is false")
    return "untied, as configured"


def check_rotary(patient: Patient) -> str:
    """Tables of rotary angles are neither left over memory nor zeros."""
    tables = rotary_tables(patient.model)
    for name, table in tables.items():
        demand(not table.is_meta, f"{name} was left on the meta device")
        size = table.abs() if table.is_complex() else table.float()
        demand(size.isfinite().all(), f"{name} holds NaN or infinite values")
        demand(size.any(), f"{name} is all zeros")
        if "inv_freq" in name:
            good = bool(((size > 0) & (size <= 1)).all())
            demand(good, f"{name} has values outside (0, 1], from {size.min()} to {size.max()}")
        elif table.is_complex():
            demand((size - 1).abs().max() < 0.1, f"{name} holds numbers that are no rotations")
    return f"{len(tables)} tables" if tables else "no tables: angles are computed or learned"


def rotary_tables(model: torch.nn.Module) -> dict[str, Tensor]:
    """Buffers, and tensors that are plain attributes, whose names are those of rotary angles."""
    tables = {name: buffer for name, buffer in model.named_buffers() if ROTARY.search(name)}
    for prefix, module in model.named_modules():
        tables |= {
            f"{prefix}.{name}".lstrip("."): value
            for name, value in vars(module).items()
            if isinstance(value, Tensor) and ROTARY.search(name)
        }
    return {
        name: table
        for name, table in tables.items()
        if table.is_floating_point() or table.is_complex()
    }


@torch.no_grad()
def check_attention(patient: Patient) -> str:
    """No layer attends to all tokens alike."""
    layers = patient.model(**patient.inputs, output_attentions=True).attentions
    if not layers or any(layer is None for layer in layers):
        return "the class gives no attention weights"
    uniform = [
        str(number)
        for number, weights in enumerate(layers)
        if bool((weights.float() * weights.shape[-1] - 1).abs().max() < UNIFORM)
    ]
    broken = [str(number) for number, weights in enumerate(layers) if not weights.isfinite().all()]
    demand(not broken, f"NaN in the attention of the layers {', '.join(broken)}")
    demand(not uniform, f"uniform attention in the layers {', '.join(uniform)}")
    return f"{len(layers)} layers, none uniform"


def check_rows(patient: Patient) -> str:
    """Every token of the tokenizer has a row of its own that is not zero."""
    table = patient.table
    ids = sorted(id_ for id_ in patient.tokenizer.get_vocab().values() if id_ < len(table))
    ids = [id_ for id_ in ids if id_ != patient.tokenizer.pad_token_id]
    rows = table[ids]
    zero = [str(id_) for id_, row in zip(ids, rows.abs().amax(1).tolist(), strict=True) if not row]
    demand(not zero, f"rows of the embedding that are zero: {first_names(zero)}")
    _, counts = rows.unique(dim=0, return_counts=True)
    equal = int(counts[counts > 1].sum())
    demand(not equal, f"{equal} rows of the embedding equal another: they were never trained")
    return f"{len(ids)} rows, all different"


def check_vocabulary(patient: Patient) -> str:
    """Its ids are rows of the embedding, and both agree about padding."""
    tokenizer, config = patient.tokenizer, patient.model.config
    rows = len(patient.table)
    largest = max(tokenizer.get_vocab().values())
    demand(largest < rows, f"the tokenizer has ids up to {largest}, the embedding {rows} rows")
    pad = getattr(config, "pad_token_id", None)
    demand(tokenizer.pad_token_id is not None, "the tokenizer has no padding token")
    demand(
        pad in (None, tokenizer.pad_token_id),
        f"pad id {tokenizer.pad_token_id} of the tokenizer, {pad} of the model",
    )
    if patient.auto_class == "AutoModelForMaskedLM":
        demand(tokenizer.mask_token_id is not None, "the tokenizer has no mask token")
        unknown = tokenizer.unk_token_id
        demand(tokenizer.mask_token_id != unknown, "the mask token is the unknown token")
    return f"{len(tokenizer)} tokens for {rows} rows"


@torch.no_grad()
def check_output(patient: Patient) -> str:
    """A text gives finite numbers."""
    out = patient.model(**patient.inputs)[0]
    demand(out.isfinite().all(), "a text gives NaN or infinite numbers")
    return f"finite, of shape {tuple(out.shape)}"


CHECKS: dict[str, Callable[[Patient], str]] = {
    "numbers": Patient.check_finite,
    "stored type": check_dtype,
    "keys": check_keys,
    "tie": check_tie,
    "rotary": check_rotary,
    "attention": check_attention,
    "rows": check_rows,
    "vocabulary": check_vocabulary,
    "output": check_output,
}


def main(folder: str, *options: str) -> int:
    """Run all checks; 1 if one failed. The folder's code runs with ``--trust-remote-code``."""
    return report_checks(CHECKS, Patient(Path(folder), "--trust-remote-code" in options))
