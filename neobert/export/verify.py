"""Checks an exported folder with torch and transformers alone: a script, run in a clean process.

``python -I verify.py DIR [EXPECTED.safetensors]`` prints a line of JSON per check and exits with 1
if one failed. It runs under any supported version of transformers. ``EXPECTED`` holds inputs and
what the model that was exported makes of them; ``neobert.export.check`` writes it. The package
itself cannot be imported in here, so that nothing of it is needed unnoticed.
"""

import importlib
import importlib.abc
import json
import sys
import tempfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import torch
import transformers
from safetensors import safe_open
from torch import Tensor

TOLERANCE = 1e-5
"""Largest difference of fp32 outputs, relative to the largest output if that is above 1."""

ONNX_TOLERANCE = 1e-4
"""The same for ONNX in fp32."""

INT8_COSINE = 0.99
"""Smallest mean cosine of int8 outputs to fp32 ones."""

AUTO_CLASSES = (
    "AutoModel",
    "AutoModelForMaskedLM",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "AutoModelForQuestionAnswering",
)


class NoPackage(importlib.abc.MetaPathFinder):
    """Forbids ``import neobert``: whoever downloads the folder does not have it."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        """Raise for the package and leave everything else to the other finders."""
        if fullname.partition(".")[0] == "neobert":
            raise ImportError(f"the exported model must not import {fullname}")


class CheckFailedError(Exception):
    """What is wrong with the folder."""


def demand(condition: object, message: str) -> None:
    """Fail the check that is running unless ``condition`` holds."""
    if not condition:
        raise CheckFailedError(message)


class Exported:
    """The folder, and the model in it, loaded on first use."""

    def __init__(self, folder: Path, expected: Path | None) -> None:
        self.folder = folder
        self.expected = expected

    @cached_property
    def config(self) -> dict:
        """``config.json``."""
        return json.loads((self.folder / "config.json").read_text())

    @cached_property
    def native(self) -> bool:
        """Whether the model is a class of transformers, and no code comes with it."""
        return "auto_map" not in self.config

    @cached_property
    def auto_classes(self) -> dict[str, str]:
        """The Auto classes that load the folder, and the class that each of them makes of it."""
        if not self.native:
            named = self.config["auto_map"]
            return {auto: named[auto].rpartition(".")[2] for auto in named if auto != "AutoConfig"}
        config = transformers.AutoConfig.from_pretrained(self.folder)
        mappings = {auto: getattr(transformers, auto)._model_mapping for auto in AUTO_CLASSES}
        return {
            auto: mapping[type(config)].__name__
            for auto, mapping in mappings.items()
            if type(config) in mapping
        }

    @cached_property
    def auto_class(self) -> str:
        """The Auto class of the architecture that was saved."""
        (architecture,) = self.config["architectures"]
        names = [auto for auto, name in self.auto_classes.items() if name == architecture]
        demand(names, f"config.json: no Auto class makes the architecture {architecture}")
        return names[0]

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """All tensors of ``model.safetensors``."""
        with safe_open(self.folder / "model.safetensors", "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    @cached_property
    def model(self) -> transformers.PreTrainedModel:
        """The saved architecture in fp32, in evaluation mode."""
        return self.load(self.auto_class)[0]

    def load(self, auto_class: str, **options: object) -> tuple[transformers.PreTrainedModel, dict]:
        """A model and transformers' account of missing, unexpected and mismatched weights."""
        options = {"dtype": torch.float32} | options
        return getattr(transformers, auto_class).from_pretrained(
            self.folder,
            trust_remote_code=not self.native,
            output_loading_info=True,
            **options,
        )

    @cached_property
    def tokenizer(self) -> transformers.PreTrainedTokenizerBase:
        """Transformers 5 asks for trust even here: it reads the model's configuration first."""
        return transformers.AutoTokenizer.from_pretrained(
            self.folder, trust_remote_code=not self.native
        )

    @cached_property
    def reference(self) -> tuple[dict[str, Tensor], dict]:
        """Inputs, outputs and texts that ``EXPECTED`` holds."""
        demand(self.expected is not None, "no expected outputs were given")
        with safe_open(self.expected, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, json.loads(file.metadata()["facts"])

    def outputs(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits, or the hidden states of a bare encoder."""
        return self.run(self.model, ids, mask)

    def run(
        self, model: transformers.PreTrainedModel, ids: Tensor, mask: Tensor | None, **more: Tensor
    ) -> Tensor:
        """The same of another copy of the model; scores of start and end are one tensor."""
        with torch.no_grad():
            out = model(input_ids=ids, attention_mask=mask, **more)
        if self.auto_class == "AutoModelForQuestionAnswering":
            return torch.stack((out.start_logits, out.end_logits), -1)
        return out[0]

    @cached_property
    def per_token(self) -> bool:
        """Whether the outputs have a row per token, as a classifier's have not."""
        return self.auto_class != "AutoModelForSequenceClassification"

    @cached_property
    def reads_first_place(self) -> bool:
        """Whether it reads place 0 of a row, as the core's classifiers do: padding on the left
        would be read in its stead."""
        pooling = self.config.get("classifier_pooling")
        return self.native and not self.per_token and pooling in ("bos", "cls")


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
    bad = [name for name, tensor in exported.weights.items() if not tensor.isfinite().all()]
    demand(not bad, f"NaN or infinite: {', '.join(bad)}")
    count = sum(tensor.numel() for tensor in exported.weights.values())
    return f"{len(exported.weights)} tensors, {count:,} numbers, all finite"


def check_versions(exported: Exported) -> str:
    """What the other checks ran with. The package that trained the model must not be there."""
    try:
        importlib.import_module("neobert")
    except ImportError:
        return f"transformers {transformers.__version__}, torch {torch.__version__}"
    raise CheckFailedError("the package neobert can be imported, so this proves nothing")


def check_weights(exported: Exported) -> str:
    """Every stored tensor is in the model as stored, and the model has no other."""
    model, info = exported.load(exported.auto_class)
    for kind, found in info.items():
        demand(not found, f"{kind}: {found}")
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
    return f"{exported.auto_class} has each of the {len(state)} tensors as stored"


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
        model, info = exported.load(auto, ignore_mismatched_sizes=auto != exported.auto_class)
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
    got, expected = exported.outputs(tensors["input_ids"], mask), tensors["outputs"]
    if exported.per_token:
        got, expected = got[mask.bool()], expected[mask.bool()]
    return same(got, expected, "the outputs of the trained model")


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
        here = slice(0, length) if exported.per_token else slice(None)
        there = slice(shift, None) if exported.per_token else slice(None)
        worst = max(
            worst,
            difference(together[row][here], alone, "padded and in a batch, against alone"),
            difference(left[0][there], alone, "padded on the left, against alone"),
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
    kept = mask.bool() if exported.per_token else slice(None)
    for name, kind in kinds.items():
        difference(exported.outputs(ids, kind)[kept], expected[kept], f"a mask that is {name}")
    if exported.native:
        return f"0/1, {', '.join(kinds)}"
    with_types = exported.run(exported.model, ids, mask, token_type_ids=torch.zeros_like(ids))
    difference(with_types, expected, "with token_type_ids")
    return f"0/1, {', '.join(kinds)}; token_type_ids are accepted"


def check_dtypes(exported: Exported) -> str:
    """Loaded as bfloat16 the model does the same, but for rounding; positions are not rounded."""
    tensors, _ = exported.reference
    ids, mask = tensors["input_ids"], tensors["attention_mask"]
    model, _ = exported.load(exported.auto_class, dtype=torch.bfloat16)
    rounded = exported.run(model, ids, mask).float()
    exact = exported.outputs(ids, mask)
    if exported.per_token:
        rounded, exact = rounded[mask.bool()], exact[mask.bool()]
    alike = torch.nn.functional.cosine_similarity(rounded.flatten(), exact.flatten(), dim=0)
    demand(alike > 0.98, f"in bfloat16 the outputs are others: their cosine is {alike:.3f}")
    return f"bfloat16 against float32: cosine {alike:.5f}"


def check_saved_again(exported: Exported) -> str:
    """``save_pretrained`` and ``from_pretrained`` change nothing."""
    tensors, _ = exported.reference
    with tempfile.TemporaryDirectory() as folder:
        exported.model.save_pretrained(folder)
        again = type(exported.model).from_pretrained(folder, dtype=torch.float32)
    outputs = exported.run(again, tensors["input_ids"], tensors["attention_mask"])
    expected = exported.outputs(tensors["input_ids"], tensors["attention_mask"])
    demand(torch.equal(outputs, expected), "the outputs change when the model is saved and loaded")
    return "outputs unchanged"


def verify_tokenizer(exported: Exported) -> str:
    """Same ids as in training, decoded back; its batches go straight into the model."""
    tokenizer, (_, facts) = exported.tokenizer, exported.reference
    texts = facts["texts"]
    found = tokenizer(texts)["input_ids"]
    demand(found == facts["ids"], f"other ids than in training: {found} for {texts}")
    again = tokenizer(tokenizer.batch_decode(found, skip_special_tokens=True))["input_ids"]
    decoded = tokenizer.batch_decode(again, skip_special_tokens=True)
    demand(
        decoded == tokenizer.batch_decode(found, skip_special_tokens=True),
        f"decoding and encoding again changes a text: {decoded}",
    )
    size, rows = len(tokenizer), exported.config["vocab_size"]
    demand(size <= rows, f"the tokenizer has {size} tokens, the model {rows}")
    pad = exported.config["pad_token_id"]
    demand(tokenizer.pad_token_id == pad, f"pad id {tokenizer.pad_token_id}, the model's is {pad}")
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        outputs = exported.model(**batch)[0]
    demand(outputs.isfinite().all(), "a batch of the tokenizer gives NaN")
    longest = tokenizer.model_max_length
    limit = f"at most {longest}" if longest < 10**9 else "any length: it knows no model_max_length"
    return f"{size} tokens, texts of {limit}"


def check_fill_mask(exported: Exported) -> str:
    """``pipeline("fill-mask")`` predicts."""
    if exported.auto_class != "AutoModelForMaskedLM" or exported.tokenizer.mask_token is None:
        return "no model of masked tokens"
    pipeline = transformers.pipeline(  # type: ignore[call-overload]
        "fill-mask",
        model=str(exported.folder),
        device="cpu",
        dtype=torch.float32,
        trust_remote_code=not exported.native,
    )
    guesses = pipeline(f"the {exported.tokenizer.mask_token} of the country", top_k=3)
    scores = [guess["score"] for guess in guesses]
    demand(len(scores) == 3 and 0 < sum(scores) <= 1 + 1e-6, f"scores {scores}")
    return ", ".join(f"{guess['token_str']!r} {guess['score']:.3f}" for guess in guesses)


def check_sentences(exported: Exported) -> str:
    """sentence-transformers, if it is there, gives the vectors of the trainer."""
    if not (exported.folder / "modules.json").is_file() or "query" not in exported.reference[0]:
        return "no embedding model"
    try:
        from sentence_transformers import SentenceTransformer  # not needed for the other checks
    except ImportError:
        return "not checked: sentence-transformers is not installed"
    tensors, facts = exported.reference
    model = SentenceTransformer(
        str(exported.folder), device="cpu", trust_remote_code=not exported.native
    )
    for kind in ("query", "document"):
        got = model.encode(facts["texts"], prompt_name=kind, convert_to_tensor=True)
        difference(got, tensors[kind], f"the vector of a {kind} in sentence-transformers")
    return f"vectors of width {got.shape[-1]} as trained, prompts included"


def check_onnx(exported: Exported) -> str:
    """The ONNX files give the model's outputs: fp32 the same numbers, int8 the same directions."""
    files = sorted(exported.folder.glob("onnx/*.onnx"))
    if not files:
        return "no ONNX files"
    try:
        import onnxruntime  # not needed for the other checks
    except ImportError:
        return "not checked: onnxruntime is not installed"
    tensors, facts = exported.reference
    batch = exported.tokenizer(facts["sentences"], padding=True, return_tensors="pt")
    batches = {
        "fp32": (tensors["input_ids"], tensors["attention_mask"]),
        "int8": (batch["input_ids"], batch["attention_mask"]),
    }
    found = []
    for file in files:
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        kind = "int8" if "int8" in file.name else "fp32"
        ids, mask = batches[kind]
        names = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
        outputs = [torch.from_numpy(out) for out in session.run(None, names)]
        got = torch.stack(outputs, -1) if len(outputs) > 1 else outputs[0]
        expected = exported.outputs(ids, mask)
        if exported.per_token and kind == "fp32":
            got, expected = got[mask.bool()], expected[mask.bool()]
        if kind == "fp32":
            largest = difference(got, expected, file.name, ONNX_TOLERANCE)
            found.append(f"{file.name} differs by {largest:.1e}")
        else:
            cosine = mean_cosine(exported, got, expected, mask)
            demand(cosine >= INT8_COSINE, f"{file.name}: mean cosine {cosine:.4f}")
            found.append(f"{file.name} has the mean cosine {cosine:.4f}")
    return ", ".join(found)


def mean_cosine(exported: Exported, got: Tensor, expected: Tensor, mask: Tensor) -> float:
    """Of a text's mean vector from an encoder, of the scores of a text or token from a head."""
    if exported.auto_class == "AutoModel":
        weights = mask[..., None] / mask.sum(1)[:, None, None]
        got, expected = (got * weights).sum(1), (expected * weights).sum(1)
    elif exported.per_token:
        got, expected = got[mask.bool()].flatten(1), expected[mask.bool()].flatten(1)
    return float(torch.nn.functional.cosine_similarity(got, expected, dim=-1).mean())


def same(got: Tensor, expected: Tensor, what: str) -> str:
    """The largest difference as a text; fails beyond the tolerance."""
    return f"largest difference {difference(got, expected, what):.1e}"


def difference(got: Tensor, expected: Tensor, what: str, tolerance: float = TOLERANCE) -> float:
    """Largest difference of two tensors of equal shape; fails beyond the tolerance."""
    demand(got.shape == expected.shape, f"{what}: shape {got.shape}, not {expected.shape}")
    demand(got.isfinite().all(), f"{what}: NaN or infinite")
    largest = float((got - expected).abs().max())
    limit = tolerance * max(1.0, float(expected.abs().max()))
    demand(largest <= limit, f"{what}: they differ by {largest:.1e}, allowed are {limit:.1e}")
    return largest


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
    "tokenizer": verify_tokenizer,
    "fill-mask": check_fill_mask,
    "sentences": check_sentences,
    "onnx": check_onnx,
}


def main(folder: str, expected: str | None = None) -> int:
    """Run all checks, one line of JSON each; 1 if one failed."""
    sys.meta_path.insert(0, NoPackage())
    exported = Exported(Path(folder), Path(expected) if expected else None)
    failed = False
    for name, check in CHECKS.items():
        try:
            line = {"check": name, "ok": True, "detail": check(exported)}
        except Exception as error:  # whatever foreign code or a damaged folder raises is a finding
            detail = (
                str(error)
                if isinstance(error, CheckFailedError)
                else f"{type(error).__name__}: {error}"
            )
            line = {"check": name, "ok": False, "detail": detail}
            failed = True
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
