"""The ``trainer`` section: how long, how often, on what, and what is kept."""

from dataclasses import dataclass, field
from typing import Annotated

from neobert.config.checks import (
    Count,
    Limit,
    NotNegative,
    Positive,
    above,
    at_least,
    broken,
    one_of,
    require,
    within,
)
from neobert.config.section import Section

PRECISIONS = ("no", "bf16", "fp16", "bf16-true")
STRATEGIES = ("auto", "single", "ddp", "fsdp2", *(f"deepspeed_zero{stage}" for stage in range(4)))
NUMBER_OF_DEVICES = Limit(
    "be auto or a number of at least 1",
    lambda devices: devices == "auto" or (isinstance(devices, int) and devices >= 1),
)
FOLDER = Limit("name a folder, it is empty", lambda path: bool(path.strip()))


@dataclass(kw_only=True)
class TrainerConfig(Section):
    """What the Lightning Trainer and its callbacks are built from."""

    per_device_train_batch_size: Positive = 16
    """Rows of a micro-batch on each device."""

    per_device_eval_batch_size: Positive = 32
    """Rows of an evaluation batch on each device."""

    global_batch_size: Positive | None = None
    """Rows of an optimizer step over all processes, shared equally; replaces
    ``per_device_train_batch_size``, so that a run may resume with more or fewer processes."""

    gradient_accumulation_steps: Positive = 1
    """Micro-batches of an optimizer step on each device."""

    batch_warmup_tokens: Positive | None = None
    """Tokens over which the batch grows, by ``gradient_accumulation_steps`` from
    ``batch_warmup_start`` on, as many tokens at each size; ``null``: the full batch at once."""

    batch_warmup_start: Positive = 1
    """Micro-batches of the first optimizer steps, with ``batch_warmup_tokens``."""

    max_steps: int = 1000000
    """Optimizer updates; 0 or less: ``num_train_epochs`` decides."""

    save_steps: int = 10000
    """Steps between checkpoints with ``save_strategy: steps``."""

    eval_steps: int = 10000
    """Steps between evaluations with ``eval_strategy: steps``."""

    eval_max_batches: Positive | None = None
    """Evaluation batches at most, over all devices together; ``null``: all."""

    logging_steps: Positive = 100
    """Steps between log lines."""

    enforce_full_packed_batches: bool = True
    """Packing: an epoch's last step continues into the next epoch (true), or is padded with empty
    rows (false)."""

    log_train_accuracy: bool = False
    """Log the share of masked training tokens guessed right."""

    log_grad_norm: bool = False
    """Log the L2 norm of the gradients before clipping."""

    output_dir: Annotated[str, FOLDER] = "./output"
    """The run's folder."""

    overwrite_output_dir: bool = True
    """An earlier run in the folder is moved aside (true), or a folder that is not empty is refused
    (false); nothing is deleted."""

    gradient_checkpointing: bool = False
    """Recompute blocks in the backward pass: less memory, a third more time."""

    gradient_clipping: NotNegative | None = None
    """Largest L2 norm of the gradients together; ``null`` or 0: no clipping."""

    ema_decay: Annotated[float, above(0), within(0, 0.999999)] | None = None
    """Decay per step of an exponential moving average of the weights, in (0, 1): what is evaluated,
    saved and exported are the averages; ``null``: none."""

    mixed_precision: Annotated[str, one_of(*PRECISIONS)] = "bf16"
    """``no`` (fp32), ``bf16`` (mixed, fp32 master weights), ``fp16`` (mixed, CUDA only), or
    ``bf16-true`` (weights in bf16 too: half the memory, small updates are lost)."""

    torch_compile: bool = False
    """Compile the encoder; skipped in one line where it cannot be done."""

    torch_compile_dynamic: bool | None = None
    """``dynamic`` of ``torch.compile``; ``null``: only lengths that vary are dynamic."""

    torch_compile_backend: Annotated[str, one_of("inductor", "aot_eager", "eager")] = "inductor"
    """``inductor``, ``aot_eager`` or ``eager``."""

    resume_from_checkpoint: str | None = None
    """``latest`` (also ``auto``, ``true``), ``best``, a step, or a path; ``null``: a new run."""

    branch_from: str | None = None
    """A checkpoint of another run (or the run: its newest) whose weights, optimizer and place in
    the data this run continues in a folder of its own, with another schedule, length or mask
    rate. Ignored on resume."""

    num_train_epochs: Positive = 3
    """Passes over the data where ``max_steps <= 0``."""

    eval_strategy: Annotated[str, one_of("steps", "epoch", "no")] = "steps"
    """Evaluate by ``steps``, by ``epoch``, or ``no``."""

    save_strategy: Annotated[str, one_of("steps", "epoch", "best", "no")] = "steps"
    """Save by ``steps``, by ``epoch``, at each ``best`` evaluation, or ``no``."""

    save_total_limit: Count | None = 3
    """Newest checkpoints to keep, the best one not counted; ``null`` or 0 keeps all."""

    early_stopping: Count = 0
    """Stop after so many evaluations in a row without a better one; 0: never."""

    metric_for_best_model: str | None = None
    """Evaluation metric that tells the best model; ``null``: the loss, downwards (GLUE: the task's
    official score)."""

    greater_is_better: bool = True
    """Whether ``metric_for_best_model`` is better when larger."""

    load_best_model_at_end: bool = False
    """End with the weights of the best evaluation."""

    save_model: bool = True
    """Save checkpoints at all."""

    disable_tqdm: bool = False
    """Lines instead of a progress bar."""

    dataloader_num_workers: Count = 0
    """Loader processes of the contrastive task."""

    use_cpu: bool = False
    """Stay on the CPU even if there is a GPU."""

    report_to: list[Annotated[str, one_of("wandb", "tensorboard", "mlflow", "csv", "none")]] = (
        field(default_factory=list)
    )
    """Loggers: ``wandb``, ``tensorboard``, ``mlflow``; ``csv`` (``metrics.csv``, always written);
    ``none``."""

    tf32: bool = True
    """Allow TF32 in fp32 matrix products on GPUs of compute capability 8.0 and up."""

    max_ckpt: Count = 3
    """Older name of ``save_total_limit``."""

    log_weight_norms: bool = False
    """Log the L2 norm of all weights."""

    train_batch_size: Positive | None = None
    """Older name of ``per_device_train_batch_size``."""

    eval_batch_size: Positive | None = None
    """Older name of ``per_device_eval_batch_size``."""

    masked_logits_only_loss: bool = True
    """The last feed-forward layer and the vocabulary see masked tokens alone (true), or every token
    (false: slow reference)."""

    strategy: Annotated[str, one_of(*STRATEGIES)] = "auto"
    """``auto``, ``single``, ``ddp``, ``fsdp2``, or ``deepspeed_zero0`` … ``deepspeed_zero3``."""

    devices: Annotated[int | str, NUMBER_OF_DEVICES] = "auto"
    """Devices on each machine; ``auto``: all GPUs, or one CPU process."""

    num_nodes: Positive = 1
    """Machines."""

    rank_timeout: Positive = 600
    """Seconds that a process waits for the others before the run ends with an error."""

    emulate_bf16: bool = False
    """Use bf16 on a CPU without bf16 instructions: about ten times slower than fp32 there."""

    accept_changes: list[str] = field(default_factory=list)
    """Settings that may differ from those of the checkpoint a run resumes from; ``all``."""

    eval_on_start: bool = False
    """Evaluate before the first step too."""

    overfit_steps: Count = 0
    """Train on the batches of the first so many optimizer steps over and over, with the same masks:
    the loss of a model that can learn goes towards 0. 0: on all data."""

    profiler: Annotated[str, one_of("simple", "advanced", "pytorch")] | None = None
    """Lightning's profiler: ``simple``, ``advanced`` (cProfile) or ``pytorch`` (traces of
    operations); it writes to ``profile/`` in the run folder."""

    log_batch_digests: bool = False
    """Write the SHA-256 of every micro-batch to ``batches-<rank>.csv``."""

    tune_cpu: bool = True
    """On a CPU: keep large buffers in the allocator, and use the cores that are really there."""

    def combinations(self) -> list[str]:
        problems = require(
            not self.load_best_model_at_end or (self.save_model and self.save_strategy != "no"),
            f"trainer.load_best_model_at_end=true needs saved checkpoints, but save_strategy="
            f"{self.save_strategy} and save_model={self.save_model}: save_strategy=best will do",
        )
        alone = self.strategy != "single" or (self.devices in ("auto", 1) and self.num_nodes == 1)
        problems += require(
            alone, f"trainer.strategy=single runs one process: trainer.devices={self.devices}"
        )
        return problems + self._interval_problems()

    def _interval_problems(self) -> list[str]:
        problems = []
        if self.save_strategy == "steps" and self.save_model:
            problems += broken("trainer.save_steps", self.save_steps, at_least(1))
        if self.eval_strategy == "steps":
            problems += broken("trainer.eval_steps", self.eval_steps, at_least(1))
        needs_evaluations = {
            "early_stopping": self.early_stopping > 0,
            "save_strategy=best": self.save_strategy == "best" and self.save_model,
            "load_best_model_at_end": self.load_best_model_at_end,
        }
        if self.eval_strategy == "no":
            for name in (key for key, is_set in needs_evaluations.items() if is_set):
                problems.append(f"trainer.{name} needs evaluations, but trainer.eval_strategy=no")
        return problems
