"""The model in an exported folder, and what it should make of some inputs."""

import json
from functools import cached_property
from pathlib import Path

import torch
import transformers
from torch import Tensor

from .model_folder import ModelFolder, demand, read_tensors

TOLERANCE = 1e-5
"""Largest difference of fp32 outputs, relative to the largest output if that is above 1."""


class Exported(ModelFolder):
    """An exported folder, with what the model that was exported makes of some inputs."""

    def __init__(self, folder: Path, expected: Path) -> None:
        super().__init__(folder, trust=False)
        self.native = "auto_map" not in self.config
        """Whether the model is a class of transformers, and no code comes with it."""

        self.trust, self.expected = not self.native, expected

    @cached_property
    def head(self) -> str:
        """The Auto class of the architecture that was saved."""
        demand(self.auto_class, f"no Auto class makes {self.config['architectures']}")
        return str(self.auto_class)

    @cached_property
    def model(self) -> transformers.PreTrainedModel:
        """The saved architecture in fp32, in evaluation mode."""
        return self.load(self.head)[0]

    @cached_property
    def reference(self) -> tuple[dict[str, Tensor], dict]:
        """Inputs, outputs and texts that ``expected`` holds."""
        tensors, metadata = read_tensors(self.expected)
        return tensors, json.loads(metadata["facts"])

    def outputs(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits, or the hidden states of a bare encoder."""
        return self.run(self.model, ids, mask)

    def run(
        self, model: transformers.PreTrainedModel, ids: Tensor, mask: Tensor | None, **more: Tensor
    ) -> Tensor:
        """The same of another copy of the model; scores of start and end are one tensor."""
        with torch.no_grad():
            out = model(input_ids=ids, attention_mask=mask, **more)
        if self.head == "AutoModelForQuestionAnswering":
            return torch.stack((out.start_logits, out.end_logits), -1)
        return out[0]

    def kept(self, outputs: Tensor, mask: Tensor) -> Tensor:
        """A row per token that the mask keeps, or per text of a classifier of texts."""
        return outputs[mask.bool()].flatten(1) if self.per_token else outputs

    @cached_property
    def per_token(self) -> bool:
        """Whether the outputs have a row per token, as a classifier's have not."""
        return self.head != "AutoModelForSequenceClassification"

    @cached_property
    def reads_first_place(self) -> bool:
        """Whether it reads place 0 of a row, as the core's classifiers do: padding on the left
        would be read in its stead."""
        pooling = self.config.get("classifier_pooling")
        return self.native and not self.per_token and pooling in ("bos", "cls")


def difference(outputs: Tensor, expected: Tensor, what: str, tolerance: float = TOLERANCE) -> float:
    """Largest difference of two tensors of equal shape; fails beyond the tolerance."""
    shapes = f"shape {tuple(outputs.shape)}, not {tuple(expected.shape)}"
    demand(outputs.shape == expected.shape, f"{what}: {shapes}")
    demand(outputs.isfinite().all(), f"{what}: NaN or infinite")
    largest = float((outputs - expected).abs().max())
    limit = tolerance * max(1.0, float(expected.abs().max()))
    demand(largest <= limit, f"{what}: they differ by {largest:.1e}, allowed are {limit:.1e}")
    return largest
