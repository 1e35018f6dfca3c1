"""The ``optimizer`` section: AdamW, Adam, or MuonClip."""

from dataclasses import dataclass, field

from neobert.config.checks import above, at_least, one_of, require, within
from neobert.config.section import Section

OPTIMIZERS = ("adamw", "adam", "muonclip")
ORTHOGONALIZATIONS = ("polar_express", "newton_schulz")
NORM_FACTORS = ("match_rms_adamw", "spectral", "none", "legacy_compat")
PROJECTIONS = ("q_proj", "k_proj", "v_proj")


@dataclass(kw_only=True)
class MuonConfig(Section):
    """Muon for the matrices of the blocks, with QK-clip (Kimi K2, arXiv 2507.20534)."""

    muon_beta: float = 0.95
    """Decay rate of the momentum, in [0, 1)."""

    muon_decay: float = 0.0
    """Decoupled weight decay of Muon's matrices, in [0, 1)."""

    ns_steps: int = 5
    """Iterations of the orthogonalisation, 1 to 20."""

    enable_clipping: bool = True
    """QK-clip: scale queries and keys of heads whose attention logits exceed the threshold."""

    clipping_threshold: float = 50.0
    """Largest attention logit that is left alone, in (0, 1000]."""

    clipping_alpha: float = 0.5
    """Share of the correction that the queries take, in [0, 1]; the keys take the rest."""

    clipping_warmup_steps: int = 0
    """Steps before QK-clip acts."""

    clipping_interval: int = 10
    """Steps from one measurement of QK-clip to the next."""

    clipping_qk_chunk_size: int = 1024
    """Queries that are measured at a time: bounds the memory of a measurement."""

    capture_last_microbatch_only: bool = True
    """Measure the last micro-batch of a step only, or all of them."""

    detect_anomalies: bool = False
    """Name the parameter of a non-finite gradient, and skip that update."""

    orthogonalization: str = "polar_express"
    """``polar_express`` (arXiv 2505.16932) or ``newton_schulz``."""

    norm_factor: str = "match_rms_adamw"
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

    def problems(self) -> list[str]:
        """What is wrong with this section; empty if nothing is."""
        where = "optimizer.muon_config"
        problems = within(f"{where}.muon_beta", self.muon_beta, 0, 0.999999)
        problems += within(f"{where}.muon_decay", self.muon_decay, 0, 0.999999)
        problems += within(f"{where}.ns_steps", self.ns_steps, 1, 20)
        problems += above(f"{where}.clipping_threshold", self.clipping_threshold, 0)
        problems += within(f"{where}.clipping_threshold", self.clipping_threshold, 0, 1000)
        problems += within(f"{where}.clipping_alpha", self.clipping_alpha, 0, 1)
        problems += at_least(f"{where}.clipping_warmup_steps", self.clipping_warmup_steps, 0)
        problems += at_least(f"{where}.clipping_interval", self.clipping_interval, 1)
        problems += at_least(f"{where}.clipping_qk_chunk_size", self.clipping_qk_chunk_size, 1)
        problems += one_of(f"{where}.norm_factor", self.norm_factor, NORM_FACTORS)
        problems += one_of(f"{where}.orthogonalization", self.orthogonalization, ORTHOGONALIZATIONS)
        for name in self.clipping_layers_mapping:
            problems += one_of(f"{where}.clipping_layers_mapping", name, PROJECTIONS)
        return problems


@dataclass(kw_only=True)
class OptimizerConfig(Section):
    """The rule of the updates."""

    name: str = "adamw"
    """``adamw``, ``adam``, or ``muonclip`` (Muon for the blocks' matrices, AdamW for the rest)."""

    lr: float = 1e-4
    """Learning rate after warm-up; with ``norm_factor: match_rms_adamw`` for both families."""

    weight_decay: float = 0.01
    """Decay of AdamW's matrices, decoupled (``adam``: coupled, L2); norms, biases, embeddings
    none."""

    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    """Decay rates of Adam's two moments, each in [0, 1)."""

    eps: float = 1e-8
    """Added to Adam's denominator."""

    muon_config: MuonConfig | None = None
    """Settings of ``muonclip``; ``null`` takes their defaults. Of no effect, with a warning, beside
    another optimizer."""

    def problems(self) -> list[str]:
        """What is wrong with this section; empty if nothing is."""
        problems = one_of("optimizer.name", self.name, OPTIMIZERS)
        problems += at_least("optimizer.lr", self.lr, 0)
        problems += at_least("optimizer.weight_decay", self.weight_decay, 0)
        problems += above("optimizer.eps", self.eps, 0)
        good = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        problems += require(good, f"optimizer.betas={self.betas}: must be two numbers in [0, 1)")
        return problems + ([] if self.muon_config is None else self.muon_config.problems())
