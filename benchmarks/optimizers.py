"""Cost of an optimizer step: ours against looping ``torch.optim.Muon``, on a model's matrices.

``python -m benchmarks.optimizers --output docs/benchmarks/optimizers.json``

No training: random gradients, the step alone, the variants in turn so that a busy machine hits all.
torch's loop visits one matrix after the other, so where it takes too long (bf16 on a CPU that has
no instructions for it) ``--torch-layers 1`` measures it on fewer layers and scales its seconds up;
no step is a warm-up then.
"""

import statistics
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from benchmarks import harness
from neobert.config.optimizer import MuonConfig, OptimizerConfig
from neobert.console import show_messages
from neobert.model.heads import MaskedLM
from neobert.optim.build import build_optimizer
from neobert.optim.groups import MUON, owner_of
from neobert.optim.muon import MuonClip
from neobert.training.cpu import tune_cpu

TORCH = "torch.optim.Muon + AdamW"
VOCABULARY = 1024
"""Small: embeddings are AdamW's business, which all variants share."""

Named = list[tuple[str, nn.Parameter]]


def main(argv: list[str] | None = None) -> None:
    """Measure and write the figures."""
    parser = harness.command("optimizers", __doc__, rounds=3, output=None)
    parser.add_argument("--hidden-size", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--torch-layers", type=int, help="for torch's loop; default: all")
    options = parser.parse_args(argv)
    show_messages()
    tune_cpu()
    torch_layers = options.torch_layers or options.layers
    figures = measure(options.hidden_size, options.layers, torch_layers, options.rounds)
    harness.save(options.output, figures)


def measure(hidden_size: int, layers: int, torch_layers: int, rounds: int) -> dict[str, object]:
    """Median seconds of a step of each variant, and their ratios to torch's loop."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    named = parameters_of(hidden_size, layers, device)
    loop_step = torch_loop(parameters_of(hidden_size, torch_layers, device))
    timed = {
        name: partial(harness.seconds_of, step, device.type == "cuda")
        for name, step in {TORCH: loop_step, **variants(named)}.items()
    }
    warm_up = int(torch_layers == layers)  # where a step takes minutes, none is spent on it
    seconds = harness.in_turns(timed, rounds, warm_up)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    medians[TORCH] *= layers / torch_layers
    loop = medians[TORCH]
    return {
        "matrices": sum(is_muons(name, parameter) for name, parameter in named),
        "numbers": sum(parameter.numel() for _, parameter in named),
        "model": f"{hidden_size} x {layers}",
        "layers of torch's loop": torch_layers,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "seconds": {name: round(value, 4) for name, value in medians.items()},
        "ratio to torch.optim.Muon": {name: round(v / loop, 3) for name, v in medians.items()},
    }


def parameters_of(hidden_size: int, layers: int, device: torch.device) -> Named:
    """A model's parameters, with random gradients."""
    config = harness.model_config(hidden_size, layers)
    model = MaskedLM(config, VOCABULARY, 0).to(device)
    named = list(model.named_parameters())
    for _, parameter in named:
        parameter.grad = torch.randn_like(parameter)
    return named


def variants(named: Named) -> dict[str, Callable[[], object]]:
    """Ours: the step of each, with default settings but for what the name says."""
    heads = named[0][1].shape[1] // 64 or 1

    def muonclip(method: str) -> MuonClip:
        settings = MuonConfig(orthogonalization=method)
        found = build_optimizer(
            OptimizerConfig(name="muonclip", muon_config=settings), named, heads
        )
        assert isinstance(found, MuonClip)
        return found

    one_by_one = muonclip("newton_schulz")
    one_by_one.batch_numbers = 1
    return {
        "muonclip, newton_schulz, one matrix at a time": one_by_one.step,
        "muonclip, newton_schulz": muonclip("newton_schulz").step,
        "muonclip, polar_express": muonclip("polar_express").step,
        "adamw": build_optimizer(OptimizerConfig(), named, heads).step,
    }


def torch_loop(named: Named) -> Callable[[], object]:
    """torch's own optimizers, each for the parameters that MuonClip would give it."""
    muon = torch.optim.Muon(
        [one for name, one in named if is_muons(name, one)], adjust_lr_fn="match_rms_adamw"
    )
    rest = torch.optim.AdamW([one for name, one in named if not is_muons(name, one)])

    def step() -> None:
        muon.step()
        rest.step()

    return step


def is_muons(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon updates this parameter."""
    return owner_of(OptimizerConfig(name="muonclip"), name, parameter) == MUON


if __name__ == "__main__":
    main()
