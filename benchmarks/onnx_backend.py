"""Exported ONNX files in sentence-transformers' ``backend="onnx"``, against its torch backend.

optimum-onnx, which the backend needs, requires transformers older than 4.58; so this runs in an
environment of its own, which needs nothing of this package:

``python -m venv onnx && onnx/bin/pip install 'sentence-transformers[onnx]' 'transformers<4.58'``,
then ``onnx/bin/python benchmarks/onnx_backend.py FOLDER``, a folder exported with
``--format neobert --onnx int8``. Ends with 1 if a vector differs.
"""

import sys

import sentence_transformers
import torch
import transformers
from sentence_transformers import SentenceTransformer

TEXTS = ["The capital of France is Paris.", "An encoder reads a text from both sides."]
FILES = {"onnx/model.onnx": 0.999999, "onnx/model_qint8_avx512_vnni.onnx": 0.99}
"""The smallest mean cosine of each."""


def main(folder: str) -> int:
    """Print a line per file."""
    torch_model = SentenceTransformer(folder, trust_remote_code=True, device="cpu")
    expected = torch_model.encode(TEXTS, convert_to_tensor=True)
    sys.stdout.write(
        f"transformers {transformers.__version__}, sentence-transformers "
        f"{sentence_transformers.__version__}\n"
    )
    good = True
    for name, smallest in FILES.items():
        model = SentenceTransformer(
            folder,
            backend="onnx",
            trust_remote_code=True,
            device="cpu",
            model_kwargs={"file_name": name},
        )
        vectors = model.encode(TEXTS, convert_to_tensor=True)
        largest = float((vectors - expected).abs().max())
        cosine = float(torch.cosine_similarity(vectors, expected).mean())
        good &= cosine >= smallest
        sys.stdout.write(f"{name}: largest difference {largest:.1e}, mean cosine {cosine:.4f}\n")
    return int(not good)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
