"""The model card of an exported folder: what it is, how to use it, how it came about.

Everything in it is read from the run; what the run does not say is left out, not made up.
"""

from dataclasses import asdict
from pathlib import Path

from neobert.config.dataset import DatasetConfig
from neobert.config.root import Config
from neobert.export.native import CoreClass
from neobert.export.source import ExportSource

PIPELINES = {
    "masked_lm": "fill-mask",
    "classifier": "text-classification",
    "token_classifier": "token-classification",
    "question_answering": "question-answering",
    "encoder": "sentence-similarity",
}
ABOUT = {
    "masked_lm": "trained to fill in masked tokens",
    "classifier": "with a classifier of texts on it",
    "token_classifier": "with a classifier of tokens on it",
    "question_answering": "trained to find answers in texts",
    "encoder": "trained to embed texts",
}

FILL_MASK = """Fill in masked words:

```python
from transformers import pipeline

fill = pipeline("fill-mask", model="{name}"{trust})
for guess in fill("The capital of France is {mask}."):
    print(guess["token_str"], round(guess["score"], 3))
```
"""

FEATURES = """One vector per token, or a mean of them per text:

```python
import torch
from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}"{trust})
model = AutoModel.from_pretrained("{name}"{trust})

batch = tokenizer(["A first text.", "Another one."], padding=True, return_tensors="pt")
with torch.no_grad():
    hidden = model(**batch).last_hidden_state  # (texts, tokens, {width})
mask = batch["attention_mask"].unsqueeze(-1)
mean = (hidden * mask).sum(1) / mask.sum(1)  # (texts, {width})
```
"""

CLASSIFY = """Score texts:

```python
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}"{trust})
model = AutoModelForSequenceClassification.from_pretrained("{name}"{trust})

batch = tokenizer(["A first text.", "Another one."], padding=True, return_tensors="pt")
with torch.no_grad():
    scores = model(**batch).logits  # (texts, {labels})
```
"""

PIPELINE = """
```python
from transformers import pipeline

model = pipeline("{pipeline}", model="{name}"{trust})
```
"""

EMBED = """Embed texts with sentence-transformers, which puts {prompts} before them:

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{name}"{trust})
queries = model.encode(["A first text."], prompt_name="query")  # (texts, {width})
documents = model.encode(["A first text.", "Another one."], prompt_name="document")
print(model.similarity(queries, documents))
```
"""

MEAN = """In sentence-transformers the mean of the tokens stands for a text: a start for training
embeddings, which this model was not trained for.

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{name}"{trust})
embeddings = model.encode(["A first text.", "Another one."])  # (texts, {width})
print(model.similarity(embeddings, embeddings))
```
"""

NATIVE = """The model is the class `{architecture}` of transformers (from version {since}), which
computes exactly what was trained: no code comes with the weights.{onnx}
"""

OWN_CODE = """The model's class comes with the weights (`modeling_neobert.py`, for transformers 4.57
and 5), hence `trust_remote_code=True`: read the file first.{onnx}
"""

ONNX = {
    "fp32": " For ONNX Runtime there is `onnx/model.onnx`.",
    "int8": (
        " For ONNX Runtime there are `onnx/model.onnx` (fp32)\n"
        "and `onnx/model_qint8_avx512_vnni.onnx` (int8, for CPUs with VNNI instructions)."
    ),
}

SPEED = """On a GPU, `attn_implementation="flash_attention_2"` with `dtype=torch.bfloat16` computes
no padding; on a CPU the default computes none either.
"""

CITATION = """```bibtex
@article{breton2025neobert,
  title   = {NeoBERT: A Next-Generation BERT},
  author  = {Le Breton, Lola and Fournier, Quentin and El Mezouar, Mariam and Morris, John X. and
             Chandar, Sarath},
  journal = {arXiv preprint arXiv:2502.19587},
  year    = {2025}
}
```
"""


def model_card(
    source: ExportSource, name: str, core: CoreClass | None, onnx: str | None = None
) -> str:
    """``README.md`` of the exported folder; ``name`` is what its snippets load.

    ``core`` is the class of transformers that the folder is for; ``None``: ours. ``onnx``: which
    ONNX files it has.
    """
    sections = [
        _header(source, core),
        f"# {name.rstrip('/').rpartition('/')[2]}\n\n{_about(source)}",
        "## Use\n\n" + _snippets(source, name, core, onnx),
        _training(source),
        _results(source),
        _reproduce(source),
        "## Citation\n\n" + CITATION,
    ]
    return "\n".join(section for section in sections if section)


def _header(source: ExportSource, core: CoreClass | None) -> str:
    pipeline = PIPELINES[source.kind]
    tags = ["neobert", "encoder"] + ([] if core is None else [core.model_type])
    if source.kind == "encoder":
        tags.append("sentence-transformers")
    library = "sentence-transformers" if source.kind == "encoder" else "transformers"
    lines = [f"library_name: {library}", f"pipeline_tag: {pipeline}", "tags:"]
    return "\n".join(["---", *lines, *(f"- {tag}" for tag in tags), "---", ""])


def _about(source: ExportSource) -> str:
    config = source.encoder.config
    count = sum(parameter.numel() for parameter in source.encoder.parameters())
    parts = ["rotary positions" if config.rope else "learned positions"]
    if config.ngpt:
        parts += ["normalised: nGPT"]
    else:
        parts += ["RMSNorm" if config.rms_norm else "LayerNorm"]
        parts += ["SwiGLU" if config.hidden_act.lower() == "swiglu" else "GELU"]
    return (
        f"A NeoBERT encoder, {ABOUT[source.kind]}: {config.num_hidden_layers} layers of width "
        f"{config.hidden_size} with {config.num_attention_heads} heads ({', '.join(parts)}), "
        f"{count:,} parameters, a vocabulary of {source.encoder.vocab_size:,}, "
        f"for texts of up to {config.max_position_embeddings} tokens.\n"
    )


def _snippets(source: ExportSource, name: str, core: CoreClass | None, onnx: str | None) -> str:
    mask_token = source.tokenizer.mask_token
    facts = {
        "name": name,
        "width": source.encoder.config.hidden_size,
        "mask": mask_token,
        "trust": ", trust_remote_code=True" if core is None else "",
        "onnx": ONNX.get(onnx or "", ""),
    }
    facts |= {} if core is None else {"architecture": core.architecture, "since": core.since}
    match source.kind:
        case "masked_lm":
            chosen = [FILL_MASK] if mask_token else []
            chosen += [FEATURES, MEAN]
        case "classifier":
            chosen = [CLASSIFY]
            facts["labels"] = source.model.state_dict()["classifier.bias"].numel()
        case "token_classifier" | "question_answering":
            chosen = [PIPELINE]
            facts["pipeline"] = PIPELINES[source.kind]
        case "encoder":
            chosen = [EMBED, FEATURES]
            prompts = [f"`{text}`" for text in source.prompts.values() if text]
            facts["prompts"] = " or ".join(prompts) or "nothing"
    chosen += [OWN_CODE, SPEED] if core is None else [NATIVE]
    return "\n".join(text.format(**facts) for text in chosen)


def _training(source: ExportSource) -> str:
    if source.settings is None:
        return ""
    rows = _recipe(source.settings) | _counts(source)
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    settings = "All settings are in [training_config.yaml](training_config.yaml).\n"
    return "\n".join(["## Training", "", "| | |", "|---|---|", *lines, "", settings])


def _recipe(config: Config) -> dict[str, object]:
    trainer, optimizer = config.trainer, config.optimizer
    rows: dict[str, object] = {
        "task": config.task,
        "data": _data(config.dataset),
        "sequence length": config.dataset.max_seq_length,
        "batch per device": trainer.per_device_train_batch_size,
        "accumulated batches": trainer.gradient_accumulation_steps,
        "optimizer": f"{optimizer.name}, rate {optimizer.lr:g}, decay {optimizer.weight_decay:g}",
        "schedule": config.scheduler.name,
        "seed": config.seed,
    }
    if config.task == "pretraining":
        collator = config.datacollator
        how = "all as the mask token" if collator.mask_all else "80 % mask, 10 % random, 10 % kept"
        rows["masked"] = f"{collator.mlm_probability:.0%} of the tokens ({how})"
        rows["packed"] = "yes" if collator.pack_sequences else "no"
    if config.task == "glue":
        rows["data"] = config.glue.task_name
        rows["sequence length"] = config.glue.max_seq_length
    if config.task == "contrastive":
        rows |= {name: value for name, value in asdict(config.contrastive).items() if value}
    return rows


def _data(dataset: DatasetConfig) -> str:
    """Name and configuration; of local files their name, but not where they lay."""
    file = Path(dataset.path).name if dataset.path else None
    return " ".join(filter(None, (dataset.name, dataset.config, file)))


def _counts(source: ExportSource) -> dict[str, object]:
    summary, rows = source.summary, dict[str, object]()
    if source.step is not None:
        rows["optimizer steps"] = f"{source.step:,}"
    at_end = source.step == summary.get("steps")
    if at_end and isinstance(tokens := summary.get("tokens"), int | float):
        rows["tokens of text"] = f"{tokens:,.0f}"
    if at_end and isinstance(seconds := summary.get("seconds"), int | float):
        rows["time"] = f"{seconds / 60:.1f} minutes"
    derived = summary.get("derived")
    if isinstance(derived, dict):
        rows |= {name: derived[name] for name in ("devices", "precision") if name in derived}
    return rows


def _results(source: ExportSource) -> str:
    metrics: dict[str, float] = {}
    for row in source.metrics:
        if source.step is not None and int(row["step"]) <= source.step:
            metrics |= {
                name: float(value) for name, value in row.items() if "eval/" in name and value
            }
    picture = "![Loss over the steps of training](loss.png)\n" if source.plot else ""
    if not metrics and not picture:
        return ""
    lines = [f"| {name} | {value:.6g} |" for name, value in sorted(metrics.items())]
    table = ["| last evaluation | |", "|---|---|", *lines, ""] if metrics else []
    return "\n".join(["## Results", "", *table, picture])


def _reproduce(source: ExportSource) -> str:
    summary = source.summary
    if "command" not in summary:
        return ""
    packages = summary.get("packages")
    versions = packages if isinstance(packages, dict) else {}
    lines = [
        "## Reproduce",
        "",
        "```bash",
        str(summary["command"]),
        "```",
        "",
        f"neobert {summary.get('neobert')}, commit {summary.get('commit') or 'unknown'}, Python "
        f"{summary.get('python')}; "
        + ", ".join(f"{name} {version}" for name, version in versions.items()),
        "",
    ]
    return "\n".join(lines)
