"""The root of the configuration, and the checks that need more than one section."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from neobert.config.answers import AnswersConfig
from neobert.config.checks import Limit, Positive, at_least, broken, one_of, require
from neobert.config.contrastive import ContrastiveConfig
from neobert.config.datacollator import DataCollatorConfig
from neobert.config.dataset import DatasetConfig
from neobert.config.deepspeed import DeepSpeedConfig
from neobert.config.glue import GlueConfig
from neobert.config.mixture import stage_mixture_problems
from neobert.config.model import ModelConfig
from neobert.config.mteb import read_local_tasks
from neobert.config.optimizer import OptimizerConfig
from neobert.config.scheduler import SchedulerConfig
from neobert.config.section import Section, value_problems
from neobert.config.stages import StageConfig, stage_ends, with_stage
from neobert.config.tokenizer import TokenizerConfig
from neobert.config.tokens import TokensConfig
from neobert.config.trainer import TrainerConfig
from neobert.config.wandb import WandbConfig

TASKS = (
    "pretraining",
    "glue",
    "token_classification",
    "question_answering",
    "contrastive",
    "mteb",
)
PRETRAINING_METRICS = ("loss", "perplexity", "bits_per_byte", "accuracy")
"""What an evaluation of pretraining can be called best by."""

SEED = Limit(f"be from 0 to {2**32 - 1}", lambda seed: 0 <= seed < 2**32)  # NumPy's
TASK_TYPE = Limit("name a task", lambda names: bool(names.strip()))


@dataclass(kw_only=True)
class Config(Section):
    """All settings of a run. Complete and checked before anything is loaded; never written
    to."""

    task: Annotated[str, one_of(*TASKS)] = "pretraining"
    """``pretraining``, ``glue``, ``token_classification``, ``question_answering``,
    ``contrastive`` or ``mteb``."""

    accelerate_config_file: str | None = None
    """An Accelerate YAML whose processes, precision and strategy are used."""

    pretrained_checkpoint: str = "latest"
    """Which checkpoint of a run weights are taken from: ``latest`` (the newest undamaged one),
    ``best``, a step, a path."""

    use_deepspeed: bool = True
    """With ``trainer.strategy: auto``: DeepSpeed where it can run (CUDA, installed, several
    devices)."""

    mteb_task_type: Annotated[str, TASK_TYPE] = "all"
    """classification, clustering, pair_classification, reranking, retrieval, sts, all; or names of
    tasks, the name of a benchmark, or ``local``."""

    mteb_batch_size: Positive = 32
    """Texts encoded at a time, if they are of the full length: packed batches hold as many
    tokens."""

    mteb_pooling: Annotated[str, one_of("mean", "avg", "cls", "max")] = "mean"
    """Sentence vector: ``mean`` (also ``avg``), ``cls`` or ``max``."""

    mteb_overwrite_results: bool = False
    """Evaluate again what has a result already."""

    mteb_model: str | None = None
    """What is evaluated: a run, a checkpoint, a published folder, a hub id; ``null``: the run in
    ``trainer.output_dir``."""

    mteb_max_length: Annotated[int, at_least(3)] | None = None
    """Longest text in tokens; ``null``: what the model was trained for, at most
    ``tokenizer.max_length``."""

    mteb_prompts: dict[str, str] = field(default_factory=dict)
    """Prefixes by ``query``, ``document``, type or name of a task (``Retrieval-query``, ``STS``);
    empty: those the model was trained with."""

    mteb_local: dict[str, Any] = field(default_factory=dict)
    """Own tasks for ``mteb_task_type=local``, by name: ``{type, path, columns, split,
    max_rows}``; empty: tasks over the packaged factbook."""

    pretraining_metadata: dict[str, Any] = field(default_factory=dict)
    """Free facts about the pretraining run; recorded with the results as ``pretraining_<key>``."""

    seed: Annotated[int, SEED] = 0
    """Seed of initialisation, order, masks and dropout."""

    debug: bool = False
    """Messages with time, level and origin, the details among them."""

    config_path: str | None = None
    """A YAML file of settings, stronger than groups and weaker than the command line."""

    callbacks: dict[str, Any] = field(default_factory=dict)
    """Lightning callbacks by a name of yours: ``{_target_: package.Class, argument: value}``."""

    loggers: dict[str, Any] = field(default_factory=dict)
    """Lightning loggers in the same form, beside those of ``trainer.report_to``."""

    stages: list[StageConfig] = field(default_factory=list)
    """Parts of a pretraining run with settings of their own; empty: one part."""

    model: ModelConfig = field(default_factory=ModelConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    datacollator: DataCollatorConfig = field(default_factory=DataCollatorConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)
    glue: GlueConfig = field(default_factory=GlueConfig)
    tokens: TokensConfig = field(default_factory=TokensConfig)
    answers: AnswersConfig = field(default_factory=AnswersConfig)
    contrastive: ContrastiveConfig = field(default_factory=ContrastiveConfig)
    deepspeed: DeepSpeedConfig = field(default_factory=DeepSpeedConfig)

    def problems(self) -> list[str]:
        """Everything that is wrong, section by section and across them; empty if nothing is."""
        problems = value_problems("", self, Config)
        problems += read_local_tasks(self.mteb_local)[1]
        problems += [
            f"{key}.{name}: must have a _target_, such as my_package.{example}"
            for key, example in (("callbacks", "MyCallback"), ("loggers", "MyLogger"))
            for name, entry in getattr(self, key).items()
            if not (isinstance(entry, dict) and isinstance(entry.get("_target_"), str))
        ]
        for section in vars(self).values():
            problems += section.combinations() if isinstance(section, Section) else []
        problems += self._stages() + self._mixture() + self._lengths()
        return problems + self._combinations() + self._best_model()

    def _stages(self) -> list[str]:
        if not self.stages and not self.trainer.batch_warmup_tokens:
            return []
        key = "stages" if self.stages else "trainer.batch_warmup_tokens"
        problems = require(
            self.task == "pretraining", f"{key}: only pretraining has stages, not task={self.task}"
        )
        problems += require(
            self.trainer.max_steps > 0,
            f"{key} needs trainer.max_steps above 0, to know the borders",
        )
        for other, value in (
            ("dataset.skip_steps", self.dataset.skip_steps),
            ("trainer.overfit_steps", self.trainer.overfit_steps),
        ):
            problems += require(not value, f"{key} and {other} exclude each other")
        if self.trainer.max_steps > 0:
            problems += stage_ends(self.stages, self.trainer.max_steps)[1]
        trainer = replace(self.trainer, batch_warmup_tokens=None)
        known = {*replace(self, stages=[], trainer=trainer).problems()}
        for number, stage in enumerate(self.stages):
            place = f"stages[{number}]"
            problems += stage.combinations(place)
            problems += stage_mixture_problems(self.dataset, stage.mixture, place)
            own_keys = replace(stage, mixture={}, mixture_temperature=None)  # checked above
            changed = with_stage(self, own_keys).problems()
            problems += [f"{place}: {problem}" for problem in changed if problem not in known]
        return problems

    def row_length(self) -> int:
        """Tokens of a packed row, or of the longest document."""
        if self.datacollator.pack_sequences and self.datacollator.max_length is not None:
            return self.datacollator.max_length
        return self.dataset.max_seq_length

    def _lengths(self) -> list[str]:
        if self.task not in ("pretraining", "contrastive"):
            return []
        longest = self.model.max_position_embeddings
        problems = require(
            self.dataset.max_seq_length <= longest,
            f"dataset.max_seq_length={self.dataset.max_seq_length} is longer than "
            f"model.max_position_embeddings={longest}: raise the one or lower the other",
        )
        if self.dataset.filter_by_length and self.tokenizer.truncation:
            problems += require(
                self.dataset.min_length <= self.dataset.max_seq_length,
                f"dataset.min_length={self.dataset.min_length} is longer than "
                f"dataset.max_seq_length={self.dataset.max_seq_length}: nothing would be left",
            )
        return problems

    def _mixture(self) -> list[str]:
        if not self.dataset.mixture:
            return []
        problems = require(
            self.task == "pretraining",
            f"dataset.mixture: only pretraining mixes sources, not task={self.task}",
        )
        return problems + require(
            self.trainer.max_steps > 0,
            "dataset.mixture needs trainer.max_steps above 0: sources have epochs of their own",
        )

    def _combinations(self) -> list[str]:
        problems = []
        if self.datacollator.pack_sequences:
            problems += require(
                self.datacollator.pad_to_multiple_of is None,
                "datacollator.pad_to_multiple_of has no effect on packed rows, whose length is "
                "fixed: set it to null, or datacollator.pack_sequences=false",
            )
        if self.task == "contrastive" and self.contrastive.loss_type == "simcse":
            problems += require(
                self.trainer.mixed_precision != "fp16",
                "trainer.mixed_precision=fp16 overflows the contrastive logits: use bf16 or no",
            )
        if self.model.ngpt:
            problems += require(
                self.model.rope,
                "model.ngpt=true needs model.rope=true: it has no learned positions",
            )
            problems += require(
                self.trainer.ema_decay is None,
                "trainer.ema_decay with model.ngpt=true: averages of weights on the unit sphere "
                "are not on it; set it to null",
            )
        return problems

    def _best_model(self) -> list[str]:
        metric = self.trainer.metric_for_best_model
        if metric is None:
            return []
        name = metric.removeprefix("eval/").removeprefix("eval_")
        problems, metrics = [], PRETRAINING_METRICS
        if self.task == "pretraining":
            sources = [
                f"{logged}/{source}" for source in self.dataset.mixture for logged in metrics
            ]
            known = one_of(*metrics, *sources)
            problems = broken("trainer.metric_for_best_model", name, known)
        falls = name.partition("/")[0] in ("loss", "perplexity", "bits_per_byte")
        return problems + require(
            not (falls and self.trainer.greater_is_better),
            f"trainer.metric_for_best_model={metric} is better when smaller: set "
            "trainer.greater_is_better=false",
        )
