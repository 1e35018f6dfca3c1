"""Exported ONNX folders in transformers.js under node, against transformers in Python.

``npm install --prefix DIR --ignore-scripts @huggingface/transformers``, then
``python -m benchmarks.transformers_js MASKED_LM EMBEDDING --modules DIR``: two folders exported
with ``--onnx int8``. Nothing is fetched. Ends with 1 if a masked token or a vector differs.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from transformers import pipeline

SCRIPT = Path(__file__).with_suffix(".mjs")
FP32, INT8 = "model", "model_qint8_avx512_vnni"
TEXTS = [
    "The capital of France is Paris.",
    "An encoder reads a text from both sides.",
    "Population: 67 million (2022), most of them in towns.",
]
TOLERANCE = 1e-4


def ask_node(modules: Path, folder: Path, task: str, texts: list[str], pooling: str = "") -> dict:
    """What transformers.js makes of ``texts``, by ONNX file."""
    request = {
        "modules": str(modules.absolute()),
        "folder": str(folder.absolute()),
        "task": task,
        "texts": texts,
        "pooling": pooling,
        "files": [FP32, INT8],
    }
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(request, file)
        file.flush()
        done = subprocess.run(
            ["node", str(SCRIPT), file.name], capture_output=True, text=True, check=True
        )
    return json.loads(done.stdout.splitlines()[-1])


def compare_masked(folder: Path, modules: Path) -> tuple[str, bool]:
    """Line of a table, and whether the five likeliest tokens and their chances agree."""
    fill = pipeline("fill-mask", model=str(folder), device="cpu")
    assert fill.tokenizer is not None
    mask = fill.tokenizer.mask_token
    texts = [text.replace(" a ", f" {mask} ").replace("France", mask) for text in TEXTS[:2]]
    expected = fill(texts, top_k=5)
    answer = ask_node(modules, folder, "fill-mask", texts)
    same, largest, first = True, 0.0, 0
    for ours, theirs, rounded in zip(expected, answer[FP32], answer[INT8], strict=True):
        same &= [one["token"] for one in ours] == [one["token"] for one in theirs]
        far = [abs(a["score"] - b["score"]) for a, b in zip(ours, theirs, strict=True)]
        largest = max(largest, *far)
        first += ours[0]["token"] == rounded[0]["token"]
    line = (
        f"fill-mask: the five likeliest tokens are {'the same' if same else 'NOT the same'}, "
        f"largest difference of a probability {largest:.1e}; int8: the first token agrees in "
        f"{first} of {len(texts)}. node {answer['node']}, transformers.js {answer['version']}"
    )
    return line, same and largest < TOLERANCE


def compare_vectors(folder: Path, modules: Path) -> tuple[str, bool]:
    """Line of a table, and whether the vectors agree."""
    model = SentenceTransformer(str(folder), device="cpu")
    modes = json.loads((folder / "1_Pooling/config.json").read_text())
    pooling = "cls" if modes.get("pooling_mode_cls_token") else "mean"
    expected = model.encode(TEXTS, convert_to_tensor=True)
    answer = ask_node(modules, folder, "feature-extraction", TEXTS, pooling)
    vectors = {file: torch.tensor(answer[file]) for file in (FP32, INT8)}
    largest = float((vectors[FP32] - expected).abs().max())
    cosine = float(torch.cosine_similarity(vectors[INT8], expected).mean())
    line = f"embeddings: largest difference {largest:.1e} in fp32, mean cosine {cosine:.4f} in int8"
    return line, largest < TOLERANCE and cosine >= 0.99


def main(argv: list[str] | None = None) -> int:
    """Compare both folders; 1 if one differs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transformers_js")
    parser.add_argument("masked_lm", type=Path)
    parser.add_argument("embedding", type=Path)
    parser.add_argument("--modules", type=Path, required=True, help="where npm installed to")
    options = parser.parse_args(argv)
    results = [
        compare_masked(options.masked_lm, options.modules),
        compare_vectors(options.embedding, options.modules),
    ]
    for line, _ in results:
        sys.stdout.write(line + "\n")
    return int(not all(good for _, good in results))


if __name__ == "__main__":
    sys.exit(main())
