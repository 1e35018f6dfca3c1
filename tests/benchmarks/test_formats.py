"""The backends that are compared compute the same vectors; memory is that of all processes."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

from benchmarks.formats import (
    backends,
    memory_of_session,
    random_folder,
    similarities,
    texts,
    tokenize,
)
from neobert.export.folder_checks.clients import open_session, run_session
from neobert.export.native import native_class
from neobert.export.onnx_files import Traced
from neobert.export.source import read_source
from neobert.export.write import write_folder

pytest.importorskip("onnxruntime")


def test_all_backends_encode_alike(tmp_path: Path) -> None:
    shape = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
    source = read_source(random_folder(tmp_path / "source", **shape))
    folder, core = tmp_path / "model", native_class(source)
    folder.mkdir()
    write_folder(source, folder, "model", core, onnx="int8")
    models = backends(folder)
    assert {"torch fp32", "ONNX fp32", "ONNX int8"} <= models.keys()
    ((ids, mask), *_) = tokenize(folder, texts(10, count=8))
    with torch.inference_mode():
        outputs = {name: model(ids, mask)[0].float() for name, model in models.items()}
    for name, output in outputs.items():
        largest = float((output - outputs["torch fp32"])[mask.bool()].abs().max())
        assert largest < (1e-4 if name == "ONNX fp32" else 0.2), name
    sides = [texts(10, count=4), texts(20, count=4)]
    cosines = {name: similarities(model, folder, sides) for name, model in models.items()}
    assert torch.allclose(cosines["torch fp32"], cosines["ONNX fp32"], atol=1e-5)
    assert torch.allclose(cosines["torch fp32"], cosines["ONNX int8"], atol=0.02)


def test_a_third_party_model_is_written_as_it_is(tmp_path: Path) -> None:
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(**shape, vocab_size=60, hidden_dropout_prob=0.5)
    traced = Traced(transformers.BertModel(config))
    traced.write(tmp_path / "model.onnx")
    ids, mask = torch.randint(5, 60, (3, 17)), torch.ones(3, 17, dtype=torch.long)
    with torch.no_grad():
        expected = traced(ids, mask)[0]
    output = run_session(open_session(tmp_path / "model.onnx"), ids, mask)[0]
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=0)


def test_texts_have_the_length_that_was_requested() -> None:
    assert {len(text.split()) for text in texts(12, count=20)} == {12}


def test_memory_is_that_of_the_session() -> None:
    code = "block = bytearray(range(256)) * 2**18; print(len(block), flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        size = int(process.stdout.readline())
        assert size < memory_of_session(process.pid) < size + 64 * 2**20
        process.communicate(b"\n")
