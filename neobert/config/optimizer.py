"""The ``optimizer`` section: AdamW, Adam, or MuonClip."""

from dataclasses import dataclass, field
from typing import Annotated

from neobert.config.checks import (
    Above0,
    Count,
    Limit,
    NotNegative,
    Positive,
    Share,
    above,
    broken,
    one_of,
    within,
)
from neobert.config.section import Section

OPTIMIZERS = ("adamw", "adam", "muonclip")
NORM_FACTORS = ("match_rms_adamw", "spectral", "none", "legacy_compat")
PROJECTION = one_of("q_proj", "k_proj", "v_proj")
TWO_RATES = Limit(
    "be two numbers in [0, 1)",
    lambda rates: len(rates) == 2 and all(0 <= rate < 1 for rate in rates),
)


@dataclass(kw_only=True)
class MuonConfig(Section):
    """Muon for the matrices of the blocks, with QK-clip (Kimi K2, arXiv 2507.20534)."""

    muon_beta: Annotated[float, within(0, 0.999999)] = 0.95
    """Decay rate of the momentum, in [0, 1)."""

    muon_decay: Annotated[float, within(0, 0.999999)] = 0.0
    """Decoupled weight decay of Muon's matrices, in [0, 1)."""

    ns_steps: Annotated[int, within(1, 20)] = 5
    """Iterations of the orthogonalisation, 1 to 20."""

    enable_clipping: bool = True
    """QK-clip: scale queries and keys of heads whose attention logits exceed the threshold."""

    clipping_threshold: Annotated[float, above(0), within(0, 1000)] = 50.0
    """Largest attention logit that is left alone, in (0, 1000]."""

    clipping_alpha: Share = 0.5
    """Share of the correction that the queries take, in [0, 1]; the keys take the rest."""

    clipping_warmup_steps: Count = 0
    """Steps before QK-clip acts."""

    clipping_interval: Positive = 10
    """Steps from one measurement of QK-clip to the next."""

    clipping_qk_chunk_size: Positive = 1024
    """Queries that are measured at a time: bounds the memory of a measurement."""

    capture_last_microbatch_only: bool = True
    """Measure the last micro-batch of a step only, or all of them."""

    detect_anomalies: bool = False
    """Name the parameter of a non-finite gradient, and skip that update."""

    orthogonalization: Annotated[str, one_of("polar_express", "newton_schulz")] = "polar_express"
    """``polar_express`` (arXiv 2505.16932) or ``newton_schulz``."""

    norm_factor: Annotated[str, one_of(*NORM_FACTORS)] = "match_rms_adamw"
    """Scale of an update: 0.2·sqrt(max(out, in)), so that AdamW's rates fit; ``spectral``:
    sqrt(out / in); ``none``; ``legacy_compat``: 0.4·sqrt(max(out, in))."""

    nesterov: bool = True
    """Look ahead along the momentum, as Muon's author does."""

    algorithm: str | None = None
    """Older name of ``orthogonalization``, into which it is translated."""

    polar_express: bool | None = None
    """Older switch: true is ``polar_express``, false ``newton_schulz``; translated likewise."""

    clipping_layers_mapping: dict[str, str] = field(default_factory=dict)
    """For models with separate projections: ``q_proj`` and ``k_proj`` to the names they have."""

    def combinations(self) -> list[str]:
        key = "optimizer.muon_config.clipping_layers_mapping"
        return [
            line for name in self.clipping_layers_mapping for line in broken(key, name, PROJECTION)
        ]


@dataclass(kw_only=True)
class OptimizerConfig(Section):
    """The rule of the updates."""

    name: Annotated[str, one_of(*OPTIMIZERS)] = "adamw"
    """``adamw``, ``adam``, or ``muonclip`` (Muon for the blocks' matrices, AdamW for the rest)."""

    lr: NotNegative = 1e-4
    """Learning rate after warm-up; with ``norm_factor: match_rms_adamw`` for both families."""

    weight_decay: NotNegative = 0.01
    """Decay of AdamW's matrices, decoupled (``adam``: coupled, L2); norms, biases, embeddings
    none."""

    betas: Annotated[list[float], TWO_RATES] = field(default_factory=lambda: [0.9, 0.999])
    """Decay rates of Adam's two moments, each in [0, 1)."""

    eps: Above0 = 1e-8
    """Added to Adam's denominator."""

    muon_config: MuonConfig | None = None
    """Settings of ``muonclip``; ``null`` takes their defaults. Of no effect, with a warning, beside
    another optimizer."""

    def combinations(self) -> list[str]:
        return [] if self.muon_config is None else self.muon_config.combinations()
