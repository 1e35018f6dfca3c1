"""Checks of an exported folder in its clients: tokenizer, pipeline, sentence-transformers, ONNX."""

from collections.abc import Iterable
from pathlib import Path

import torch
import transformers
from torch import Tensor

from .exported import Exported, difference
from .model_folder import demand

ONNX_TOLERANCE = 1e-4
"""As :data:`~.exported.TOLERANCE`, for ONNX in fp32."""

INT8_COSINE = 0.99
"""Smallest mean cosine of int8 outputs to fp32 ones."""


def verify_tokenizer(exported: Exported) -> str:
    """Same ids as in training, decoded back; its batches go straight into the model."""
    tokenizer, (_, facts) = exported.tokenizer, exported.reference
    texts = facts["texts"]
    ids = tokenizer(texts)["input_ids"]
    demand(ids == facts["ids"], f"other ids than in training: {ids} for {texts}")
    decoded = tokenizer.batch_decode(ids, skip_special_tokens=True)
    again = tokenizer.batch_decode(tokenizer(decoded)["input_ids"], skip_special_tokens=True)
    demand(again == decoded, f"decoding and encoding again changes a text: {again}")
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
    if exported.head != "AutoModelForMaskedLM" or exported.tokenizer.mask_token is None:
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
    """sentence-transformers, if installed, gives the vectors of the trainer."""
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
        vectors = model.encode(facts["texts"], prompt_name=kind, convert_to_tensor=True)
        difference(vectors, tensors[kind], f"the vector of a {kind} in sentence-transformers")
    return f"vectors of width {vectors.shape[-1]} as trained, prompts included"


def check_onnx(exported: Exported) -> str:
    """The ONNX files give the model's outputs: fp32 the same numbers, int8 the same directions."""
    files = sorted(exported.folder.glob("onnx/*.onnx"))
    if not files:
        return "no ONNX files"
    try:
        import onnxruntime  # noqa: F401 - not needed for the other checks
    except ImportError:
        return "not checked: onnxruntime is not installed"
    tensors, facts = exported.reference
    batch = exported.tokenizer(facts["sentences"], padding=True, return_tensors="pt")
    results = []
    for file in files:
        in_int8 = "int8" in file.name
        texts = batch if in_int8 else tensors
        ids, mask = texts["input_ids"], texts["attention_mask"]
        (outputs,), expected = run_onnx(file, [(ids, mask)]), exported.outputs(ids, mask)
        if in_int8:
            head = exported.head
            cosine = mean_cosine(
                compared_rows(outputs, mask, head), compared_rows(expected, mask, head)
            )
            demand(cosine >= INT8_COSINE, f"{file.name}: mean cosine {cosine:.4f}")
            results.append(f"{file.name} has the mean cosine {cosine:.4f}")
        else:
            outputs, expected = exported.kept(outputs, mask), exported.kept(expected, mask)
            largest = difference(outputs, expected, file.name, ONNX_TOLERANCE)
            results.append(f"{file.name} differs by {largest:.1e}")
    return ", ".join(results)


def run_onnx(file: Path, batches: Iterable[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """Outputs for (B, S) ids and their masks, on the CPU."""
    session = open_session(file)
    return [one_tensor(run_session(session, ids, mask)) for ids, mask in batches]


def open_session(file: Path):  # type: ignore[no-untyped-def]  # noqa: ANN201
    """An ``onnxruntime.InferenceSession`` on the CPU."""
    import onnxruntime

    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


def run_session(session, ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """All outputs of an ``onnxruntime.InferenceSession`` for (B, S) ids and their mask."""
    inputs = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
    return tuple(torch.from_numpy(output) for output in session.run(None, inputs))


def one_tensor(outputs: tuple[Tensor, ...]) -> Tensor:
    """Scores of start and end in one tensor; of other models there is one output."""
    return torch.stack(outputs, -1) if len(outputs) > 1 else outputs[0]


def compared_rows(outputs: Tensor, mask: Tensor, head: str) -> Tensor:
    """What int8 is judged by: the mean of a text's tokens from an encoder, the scores of a text
    from its classifier; from other heads the scores of a token."""
    if head == "AutoModelForSequenceClassification":
        return outputs
    if head != "AutoModel":
        return outputs[mask.bool()]
    return (outputs * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def mean_cosine(rows: Tensor, expected: Tensor) -> float:
    """Mean over the rows; where a row is one score, of the scores of all texts."""
    dim = 0 if rows.shape[1] == 1 else 1
    return float(torch.cosine_similarity(rows, expected, dim).mean())
