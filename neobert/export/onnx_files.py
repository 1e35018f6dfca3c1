"""ONNX files beside exported weights: fp32, and int8 without the layers that it would damage.

Their names are those that sentence-transformers (``backend="onnx"``) and transformers.js look for.
Both have dynamic axes ``batch`` and ``sequence``.
"""

import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from neobert.console import get_logger
from neobert.data.corpora import read_corpus
from neobert.errors import ConfigError
from neobert.export import modeling_neobert
from neobert.export.convert import ARCHITECTURES, CLASSES
from neobert.export.folder_checks.clients import compared_rows, mean_cosine, one_tensor, run_onnx
from neobert.export.native import CoreClass
from neobert.export.source import ExportSource
from neobert.files import first_line
from neobert.ops.kernels import cpu_has_vnni

log = get_logger(__name__)

FP32, INT8 = "onnx/model.onnx", "onnx/model_qint8_avx512_vnni.onnx"
INPUTS = ("input_ids", "attention_mask")
EXAMPLE = torch.tensor([[1, 2, 3, 4], [4, 3, 2, 1]]), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
OUTPUTS = ("last_hidden_state", "logits", "start_logits", "end_logits")
OPSET = 17
TARGET = 0.995
"""Mean cosine of the int8 outputs to the fp32 ones below which layers are left in fp32."""

WORDS, SENTENCES = 24, 48
"""Texts of the World Factbook: half of them choose the layers, the others check the result."""


def write_onnx(source: ExportSource, folder: Path, core: CoreClass | None, choice: str) -> None:
    """Write ``onnx/model.onnx``, and with ``int8`` the quantised file, into an exported folder.

    Raises ``ConfigError`` where the packages are missing, or where int8 cannot be faithful.
    """
    _require_packages()
    (folder / "onnx").mkdir()
    traced = Traced(_load(source, folder, core))
    traced.write(folder / FP32)
    if choice == "int8":
        longest = source.encoder.config.max_position_embeddings
        architecture = ARCHITECTURES[source.kind]
        head = next(auto for auto, name in CLASSES.items() if name == architecture)
        Quantizer(traced, source.tokenizer, longest, folder, head).write()


def sentences() -> tuple[list[str], list[str]]:
    """Texts that choose the layers of int8, and others that check it."""
    documents = read_corpus("factbook")["train"][::7][:SENTENCES]
    texts = [" ".join(document.split()[:WORDS]) for document in documents]
    return texts[::2], texts[1::2]


class Traced(nn.Module):
    """A model of transformers whose outputs are a tuple: what the exporter takes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.eval()  # the exporter sets the mode of the whole back to what it was
        with torch.no_grad():
            out = model(**dict(zip(INPUTS, EXAMPLE, strict=True)))
        self.outputs = tuple(name for name in OUTPUTS if name in out)
        self.per_text = "logits" in out and out["logits"].dim() == 2
        """Whether the outputs are a row of scores per text."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        """(B, S) ids and their 0/1 mask to the tensors of ``outputs``."""
        out = self.model(input_ids=input_ids, attention_mask=attention_mask)
        return tuple(getattr(out, name) for name in self.outputs)

    @torch.no_grad()
    def write(self, path: Path) -> None:
        """Write the model with dynamic axes."""
        axes = {0: "batch", 1: "sequence"}
        of_output = {0: "batch"} if self.per_text else axes
        with warnings.catch_warnings():
            # The tracer warns of each condition on shapes; the checks run other shapes.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                self,
                EXAMPLE,
                str(path),
                input_names=list(INPUTS),
                output_names=list(self.outputs),
                dynamic_axes=dict.fromkeys(INPUTS, axes) | dict.fromkeys(self.outputs, of_output),
                opset_version=OPSET,
                dynamo=False,
            )


class Quantizer:
    """Dynamic int8 of the matrix products, their weights by channel."""

    def __init__(
        self,
        traced: Traced,
        tokenizer: PreTrainedTokenizerBase,
        longest: int,
        folder: Path,
        head: str,
    ) -> None:
        """``longest``: tokens of a text; ``head``: the Auto class of the model."""
        self.traced, self.folder, self.head = traced, folder, head
        texts, _ = sentences()
        self.batches = [
            _batch(tokenizer, texts[start : start + 8], longest)
            for start in range(0, len(texts), 8)
        ]
        self.expected = self._of_torch()

    def write(self) -> None:
        """Quantise as many layers as :data:`TARGET` allows."""
        ranked: list[str] = []
        left_out, cosine = 0, self._quantize([])
        while cosine < TARGET:
            ranked = ranked or self._by_damage()
            left_out = max(1, 2 * left_out)
            if left_out > len(ranked) // 2:
                raise ConfigError(
                    f"--onnx int8: the mean cosine to the fp32 outputs is {cosine:.4f} though half "
                    "of the layers are in fp32; use --onnx"
                )
            cosine = self._quantize(ranked[:left_out])
        in_fp32 = f"; in fp32: {', '.join(ranked[:left_out])}" if left_out else ""
        log.info("int8: mean cosine to fp32 %.4f%s", cosine, in_fp32)

    def _quantize(self, layers: list[str]) -> float:
        """Write the file without ``layers`` and return its mean cosine to the fp32 model."""
        from onnxruntime.quantization import QuantType, quantize_dynamic

        nodes = [node for node, layer in self._nodes().items() if layer in layers]
        with _quiet():
            quantize_dynamic(
                self.folder / FP32,
                self.folder / INT8,
                op_types_to_quantize=["MatMul", "Gemm"],
                nodes_to_exclude=nodes,
                per_channel=True,
                # Sums of two products of 7-bit weights do not saturate.
                reduce_range=not cpu_has_vnni(),
                weight_type=QuantType.QInt8,
                extra_options={"MatMulConstBOnly": True},
            )
        outputs = run_onnx(self.folder / INT8, self.batches)
        return mean_cosine(self._rows(outputs), self.expected)

    def _nodes(self) -> dict[str, str]:
        """Products of the graph with a weight, by name, and the linear layer that each is."""
        import onnx

        graph = onnx.load(self.folder / FP32, load_external_data=False).graph
        linear = {
            name for name, module in self.traced.named_modules() if isinstance(module, nn.Linear)
        }
        nodes = {}
        for node in graph.node:
            layer = node.name.strip("/").rpartition("/")[0].replace("/", ".")
            if node.op_type in ("MatMul", "Gemm") and layer in linear:
                nodes[node.name] = layer
        return nodes

    def _by_damage(self) -> list[str]:
        """Linear layers, first those that change the outputs most when they alone are in int8."""
        damage = {}
        for layer in sorted(set(self._nodes().values())):
            with _in_int8(self.traced.get_submodule(layer)):
                damage[layer] = mean_cosine(self._of_torch(), self.expected)
        return sorted(damage, key=lambda layer: damage[layer])

    @torch.no_grad()
    def _of_torch(self) -> Tensor:
        return self._rows([one_tensor(self.traced(*batch)) for batch in self.batches])

    def _rows(self, outputs: list[Tensor]) -> Tensor:
        masks = [mask for _, mask in self.batches]
        rows = [compared_rows(*pair, self.head) for pair in zip(outputs, masks, strict=True)]
        return torch.cat(rows)


def _batch(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], longest: int
) -> tuple[Tensor, Tensor]:
    batch = tokenizer(texts, padding=True, truncation=True, max_length=longest, return_tensors="pt")
    return batch["input_ids"], batch["attention_mask"]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without onnxruntime's advice, on the root logger, to fuse nodes first: ours have names."""
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)
    try:
        yield
    finally:
        logging.getLogger().setLevel(level)


@contextmanager
def _in_int8(layer: nn.Module) -> Iterator[None]:
    """As onnxruntime computes it: inputs as uint8 by tensor, weights as int8 by channel."""
    assert isinstance(layer, nn.Linear)
    weight = layer.weight.data
    scale = weight.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127

    def rounded(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        low, high = inputs[0].min().clamp(max=0), inputs[0].max().clamp(min=0)
        step = ((high - low) / 255).clamp(min=1e-12)
        return (((inputs[0] - low) / step).round() * step + low, *inputs[1:])

    handle = layer.register_forward_pre_hook(rounded)
    layer.weight.data = (weight / scale).round() * scale
    try:
        yield
    finally:
        layer.weight.data = weight
        handle.remove()


def _load(source: ExportSource, folder: Path, core: CoreClass | None) -> nn.Module:
    """The class that the folder is for, with its weights.

    Attention is written out: as one operator of torch it is exported with a test for NaN.
    """
    transformers.utils.logging.disable_progress_bar()
    module = modeling_neobert if core is None else transformers
    name = ARCHITECTURES[source.kind] if core is None else core.architecture
    with tempfile.TemporaryDirectory() as scratch:  # without `auto_map`, nothing asks for trust
        for file in ("config.json", "model.safetensors"):
            shutil.copyfile(folder / file, Path(scratch) / file)
        return getattr(module, name).from_pretrained(
            scratch, dtype=torch.float32, attn_implementation="eager"
        )


def _require_packages() -> None:
    try:
        for name in ("onnx", "onnxruntime"):
            import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"--onnx needs the packages onnx and onnxruntime: pip install 'neobert[onnx]' "
            f"({first_line(error)})"
        ) from error
