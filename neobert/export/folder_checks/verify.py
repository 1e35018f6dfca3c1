"""Checks an exported folder against the model that was exported."""

import importlib
import importlib.abc
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import transformers

from . import clients
from .exported import Exported, difference
from .model_folder import CheckFailedError, demand, first_names, report_checks


def check_files(exported: Exported) -> str:
    """Safetensors only, and every weight finite."""
    pickles = [
        path.name
        for pattern in ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt", "*.h5", "*.msgpack")
        for path in exported.folder.rglob(pattern)
    ]
    demand(not pickles, f"other weights than safetensors: {', '.join(pickles)}")
    code = [path.name for path in exported.folder.rglob("*.py")]
    demand(not (exported.native and code), f"code, though the class is transformers': {code}")
    return exported.check_finite()


def check_versions(exported: Exported) -> str:
    """What the other checks ran with. The package that trained the model must not be there."""
    try:
        importlib.import_module("neobert")
    except ImportError:
        return f"transformers {transformers.__version__}, torch {torch.__version__}"
    raise CheckFailedError("the package neobert can be imported, so this proves nothing")


def check_weights(exported: Exported) -> str:
    """Every stored tensor is in the model as stored, and the model has no other."""
    model, info = exported.load(exported.head)
    for kind, names in info.items():
        demand(not names, f"{kind}: {names}")
    state = model.state_dict()
    shared = {tensor.data_ptr() for name, tensor in state.items() if name in exported.weights}
    drawn = [name for name, tensor in state.items() if tensor.data_ptr() not in shared]
    demand(not drawn, f"not stored, so reinitialised: {', '.join(drawn)}")
    unused = exported.weights.keys() - state.keys()
    demand(not unused, f"stored but not used: {', '.join(unused)}")
    changed = [
        name
        for name, tensor in exported.weights.items()
        if not torch.equal(state[name], tensor.float())
    ]
    demand(not changed, f"not as stored: {', '.join(changed)}")
    return f"{exported.head} has each of the {len(state)} tensors as stored"


def check_auto_classes(exported: Exported) -> str:
    """Every Auto class loads the same encoder."""
    names = {name.removeprefix("model.") for name in exported.load("AutoModel")[0].state_dict()}
    stored = {
        name.removeprefix("model."): tensor
        for name, tensor in exported.weights.items()
        if name.removeprefix("model.") in names
    }
    demand(len(stored) == len(names), "the encoder is not stored whole")
    for auto in exported.auto_classes:
        # A head of another kind is random: a choice has one score, not one of each class.
        model, info = exported.load(auto, ignore_mismatched_sizes=auto != exported.head)
        others = [key for key in info["mismatched_keys"] if "classifier." not in str(key)]
        demand(not others, f"{auto}: other shapes: {others}")
        state = {name.removeprefix("model."): value for name, value in model.state_dict().items()}
        changed = [
            name
            for name, tensor in stored.items()
            if name not in state or not torch.equal(state[name], tensor.float())
        ]
        demand(not changed, f"{auto}: not as stored: {', '.join(changed)}")
        wrong = [name for name, tensor in state.items() if not tensor.isfinite().all()]
        demand(not wrong, f"{auto}: NaN or infinite: {', '.join(wrong)}")
    return ", ".join(exported.auto_classes)


def check_outputs(exported: Exported) -> str:
    """The outputs are those of the model that was exported."""
    tensors, _ = exported.reference
    mask = tensors["attention_mask"]
    outputs = exported.kept(exported.outputs(tensors["input_ids"], mask), mask)
    expected = exported.kept(tensors["outputs"], mask)
    largest = difference(outputs, expected, "the outputs of the trained model")
    return f"largest difference {largest:.1e}, of outputs up to {expected.abs().max():.3g}"


def check_padding(exported: Exported) -> str:
    """Neither padding nor its side nor the rest of the batch changes the outputs of a text."""
    tensors, _ = exported.reference
    ids, mask = tensors["input_ids"], tensors["attention_mask"]
    together, worst = exported.outputs(ids, mask), 0.0
    for row, length in enumerate(mask.sum(1).tolist()):
        alone = exported.outputs(ids[row : row + 1, :length])[0]
        shift = ids.shape[1] - length
        left = exported.outputs(
            ids[row : row + 1].roll(shift, 1), mask[row : row + 1].roll(shift, 1)
        )
        if exported.reads_first_place:
            left = together[row : row + 1]
        of_text = slice(0, length) if exported.per_token else slice(None)
        at_end = slice(shift, None) if exported.per_token else slice(None)
        worst = max(
            worst,
            difference(together[row][of_text], alone, "padded and in a batch, against alone"),
            difference(left[0][at_end], alone, "padded on the left, against alone"),
        )
    sides = "on the right only: place 0 is read" if exported.reads_first_place else "on both sides"
    return f"largest difference {worst:.1e}, {sides}"


def check_masks(exported: Exported) -> str:
    """Masks of truth values and of 0 and 1 mean the same, and so do all forms that ours takes."""
    tensors, _ = exported.reference
    ids, mask = tensors["input_ids"], tensors["attention_mask"]
    expected = exported.outputs(ids, mask)
    kinds = {"bool": mask.bool()}
    if exported.per_token:
        kinds["4-D"] = mask.bool()[:, None, None].expand(-1, 1, ids.shape[1], -1)
    if not exported.native:
        kinds["float"] = mask.float()
        kinds["additive"] = torch.zeros(mask.shape).masked_fill(mask == 0, -torch.inf)
    for name, kind in kinds.items():
        outputs = exported.kept(exported.outputs(ids, kind), mask)
        difference(outputs, exported.kept(expected, mask), f"a mask that is {name}")
    if exported.native:
        return f"0/1, {', '.join(kinds)}"
    with_types = exported.run(exported.model, ids, mask, token_type_ids=torch.zeros_like(ids))
    difference(with_types, expected, "with token_type_ids")
    return f"0/1, {', '.join(kinds)}; token_type_ids are accepted"


def check_dtypes(exported: Exported) -> str:
    """Loaded as bfloat16 the model does the same, but for rounding; positions are not rounded."""
    tensors, _ = exported.reference
    ids, mask = tensors["input_ids"], tensors["attention_mask"]
    model, _ = exported.load(exported.head, dtype=torch.bfloat16)
    rounded = exported.kept(exported.run(model, ids, mask).float(), mask)
    exact = exported.kept(exported.outputs(ids, mask), mask)
    cosine = torch.nn.functional.cosine_similarity(rounded.flatten(), exact.flatten(), dim=0)
    demand(cosine > 0.98, f"in bfloat16 the outputs are others: their cosine is {cosine:.3f}")
    largest = (rounded - exact).abs().max()
    return f"bfloat16 against float32: largest difference {largest:.1e}, cosine {cosine:.5f}"


def check_saved_again(exported: Exported) -> str:
    """``save_pretrained`` and ``from_pretrained`` change nothing."""
    tensors, _ = exported.reference
    with tempfile.TemporaryDirectory() as folder:
        exported.model.save_pretrained(folder)
        again = type(exported.model).from_pretrained(folder, dtype=torch.float32)
    state, before = again.state_dict(), exported.model.state_dict()
    changed = [name for name in before if not torch.equal(state[name], before[name])]
    demand(not changed, f"changed by saving and loading: {first_names(changed)}")
    # Not bitwise: the rounding of a product depends on where in memory the weights begin.
    outputs = exported.run(again, tensors["input_ids"], tensors["attention_mask"])
    expected = exported.outputs(tensors["input_ids"], tensors["attention_mask"])
    largest = difference(outputs, expected, "the outputs of the model saved and loaded")
    return f"weights unchanged, largest difference of the outputs {largest:.1e}"


class NoPackage(importlib.abc.MetaPathFinder):
    """Forbids ``import neobert``: whoever downloads the folder does not have it."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        """Raise for the package and leave everything else to the other finders."""
        if fullname.partition(".")[0] == "neobert":
            raise ImportError(f"the exported model must not import {fullname}")


CHECKS: dict[str, Callable[[Exported], str]] = {
    "versions": check_versions,
    "files": check_files,
    "weights": check_weights,
    "auto classes": check_auto_classes,
    "outputs": check_outputs,
    "padding": check_padding,
    "masks": check_masks,
    "dtypes": check_dtypes,
    "saved again": check_saved_again,
    "tokenizer": clients.verify_tokenizer,
    "fill-mask": clients.check_fill_mask,
    "sentences": clients.check_sentences,
    "onnx": clients.check_onnx,
}


def main(folder: str, expected: str) -> int:
    """Run all checks; 1 if one failed.

    ``expected`` is a safetensors file of :func:`neobert.export.check.write_expected`.
    """
    sys.meta_path.insert(0, NoPackage())
    return report_checks(CHECKS, Exported(Path(folder), Path(expected)))
