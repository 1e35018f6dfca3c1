"""Liger's kernels compute what the portable twins do, in values and gradients.

Without a GPU they run in Triton's interpreter, which must be switched on before Triton is imported:
in a process of its own. The interpreter computes bf16 wrongly, so parity there is that of fp32.
"""

import subprocess
import sys

import pytest
import torch
from torch.testing import assert_close

pytest.importorskip("liger_kernel")

INTERPRETER = '''
import os
os.environ["TRITON_INTERPRET"] = "1"
import numpy as np
import triton
import triton.language as tl
from triton.runtime import interpreter

if not hasattr(interpreter, "_implicit_cvt"):
    print("SKIP: this version of Triton's interpreter is another")
    raise SystemExit
plain = interpreter._implicit_cvt


def as_tensor(value):
    """Kernels call methods of their float arguments, which the interpreter leaves Python floats."""
    if not isinstance(value, float):
        return plain(value)
    handle = interpreter.TensorHandle(np.array([value], np.float32), tl.float32)
    return tl.tensor(handle, tl.float32)


interpreter._implicit_cvt = as_tensor


@triton.jit
def rsqrt(x):
    return tl.rsqrt(x)


import liger_kernel.ops.rms_norm
liger_kernel.ops.rms_norm.rsqrt = rsqrt  # the interpreter's own returns None
'''

PARITY = '''
import torch
from torch.testing import assert_close
from neobert.batch import IGNORE, PackedBatch
from neobert.losses.mlm import masked_lm_loss
from neobert.model.heads import MaskedLM
from neobert.config.model import ModelConfig
from neobert.ops.cross_entropy import linear_cross_entropy
from neobert.ops.norm import rms_norm
from neobert.ops.swiglu import swiglu

torch.manual_seed(0)


def both(function, *inputs):
    """Outputs and gradients of Liger's kernel and of the portable twin."""
    found = []
    for backend in ("liger", "torch"):
        own = [x.clone().requires_grad_() if x.is_floating_point() else x for x in inputs]
        out = function(*[x * 1 if x.requires_grad else x for x in own], kernel_backend=backend)
        first = out[0] if isinstance(out, tuple) else out
        first.square().sum().backward()
        found.append((out, [x.grad for x in own if x.requires_grad]))
    return found


def rms(x, weight, kernel_backend):
    return rms_norm(x, weight, 1e-6, kernel_backend)


def loss(hidden, weight, labels, kernel_backend):
    return linear_cross_entropy(hidden, weight, labels, 4, kernel_backend)


labels = torch.randint(50, (10,))
labels[3] = IGNORE
for function, inputs in (
    (rms, (torch.randn(6, 64), torch.randn(64))),
    (swiglu, (torch.randn(6, 40), torch.randn(6, 40))),
    (loss, (torch.randn(10, 32), torch.randn(50, 32), labels)),
):
    liger, portable = both(function, *inputs)
    assert_close(liger, portable, atol=1e-4, rtol=1e-5)

def train(backend, ngpt):
    torch.manual_seed(1)
    config = ModelConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
        kernel_backend=backend, ngpt=ngpt,
    )
    model = MaskedLM(config, 11, 0)
    positions = torch.tensor([0, 2])
    hidden = model.hidden(PackedBatch.from_documents([[1, 2, 3], [4, 5]]), positions)
    found = masked_lm_loss(
        hidden, model.decoder_weight, torch.tensor([3, 4]), kernel_backend=backend
    )
    found.sum.backward()
    return found.sum, found.correct, [p.grad for p in model.parameters()]


for ngpt in (False, True):
    assert_close(train("liger", ngpt), train("torch", ngpt), atol=1e-5, rtol=1e-5)
print("PARITY")
'''


@pytest.mark.proves("model.kernel_backend")
def test_fp32_parity_in_tritons_interpreter() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETER + PARITY], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    if "SKIP" in done.stdout:
        pytest.skip(done.stdout)
    assert "PARITY" in done.stdout


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parity_on_a_gpu(dtype) -> None:
    from neobert.ops.norm import rms_norm
    from neobert.ops.swiglu import swiglu

    # bf16 keeps 8 bits, and the two round in different places.
    tolerance = 1e-5 if dtype == torch.float32 else 0.03
    for function, shapes in ((rms_norm, ((64, 256), (256,))), (swiglu, ((64, 256), (64, 256)))):
        inputs = [torch.randn(shape, device="cuda", dtype=dtype) for shape in shapes]
        found = []
        for backend in ("liger", "torch"):
            own = [x.clone().requires_grad_() for x in inputs]
            extra = (1e-6,) if function is rms_norm else ()
            out = function(*[x * 1 for x in own], *extra, backend)
            out.float().square().sum().backward()
            found.append([out, *(x.grad for x in own)])
        for ours, theirs in zip(*found, strict=True):
            scale = theirs.abs().max().item()
            assert_close(ours / scale, theirs / scale, atol=tolerance, rtol=tolerance)


@pytest.mark.gpu
def test_cross_entropy_parity_on_a_gpu() -> None:
    from neobert.ops.cross_entropy import linear_cross_entropy

    hidden = torch.randn(300, 64, device="cuda", requires_grad=True)
    weight = torch.randn(1000, 64, device="cuda", requires_grad=True)
    labels = torch.randint(1000, (300,), device="cuda")
    labels[::7] = -100
    found = []
    for backend in ("liger", "torch"):
        total, correct = linear_cross_entropy(hidden, weight, labels, 128, backend)
        found.append((total, correct, *torch.autograd.grad(total, (hidden, weight))))
    assert_close(*found, atol=1e-3, rtol=1e-4)
