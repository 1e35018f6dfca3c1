"""From our model to the files of an exported folder: names, settings, tokenizer, pooling."""

import json
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from neobert.config.model import ModelConfig, Part, fields_of
from neobert.export.source import KINDS, ExportSource, Model
from neobert.files import write_json
from neobert.model.heads import MaskedLM, SequenceClassifier

MODULE = "modeling_neobert"
CLASSES = {
    "AutoConfig": "NeoBERTConfig",
    "AutoModel": "NeoBERT",
    "AutoModelForMaskedLM": "NeoBERTLMHead",
    "AutoModelForPreTraining": "NeoBERTLMHead",
    "AutoModelForSequenceClassification": "NeoBERTForSequenceClassification",
    "AutoModelForTokenClassification": "NeoBERTForTokenClassification",
    "AutoModelForQuestionAnswering": "NeoBERTForQuestionAnswering",
    "AutoModelForMultipleChoice": "NeoBERTForMultipleChoice",
}
ARCHITECTURES = {kind: name for name, kind in KINDS.items() if name.startswith("NeoBERT")}
"""Our class of each kind."""

PUBLISHED_PARTS: tuple[Part, ...] = ("shape", "positions", "initialisation")
"""Settings that ``config.json`` has under the same name."""

POOLING = {"cls": "cls_token", "avg": "mean_tokens", "max": "max_tokens"}
"""``contrastive.pooling``, and what sentence-transformers calls it."""

SPECIAL_TOKENS = ("pad", "unk", "cls", "sep", "mask", "bos", "eos")


def config_json(source: ExportSource) -> dict[str, object]:
    """``config.json``: the published fields, and where each Auto class finds its model."""
    model, encoder = source.model, source.encoder
    config: ModelConfig = encoder.config
    values: dict[str, object] = {
        "model_type": "neobert",
        "architectures": [ARCHITECTURES[source.kind]],
        "auto_map": {auto: f"{MODULE}.{name}" for auto, name in CLASSES.items()},
        "dtype": "float32",
        "vocab_size": encoder.vocab_size,
        "pad_token_id": encoder.pad_token_id,
        "dropout": config.dropout_prob,
        **{name: getattr(config, name) for name in fields_of(*PUBLISHED_PARTS)},
        "max_length": config.max_position_embeddings,  # the reference's modeling file reads it
    }
    if not config.rope_scaling:
        del values["rope_scaling"]  # transformers 5 warns of the key
    if isinstance(model, MaskedLM):
        values["tie_word_embeddings"] = model.tied
        values["decoder_bias"] = model.decoder.bias is not None
    values |= label_settings(source)
    if isinstance(model, SequenceClassifier):
        values |= {
            "classifier_dropout": source.classifier_dropout,
            "classifier_activation": model.settings.activation,
            "classifier_pooling": model.settings.pooling,
        }
    return values


def state_of(model: Model) -> dict[str, Tensor]:
    """Tensors by their published names; one that is tied is stored once."""
    state = model.state_dict()
    if isinstance(model, MaskedLM) and model.tied:
        del state["decoder.weight"]
    return {name: tensor.contiguous() for name, tensor in state.items()}


def write_tokenizer(tokenizer: PreTrainedTokenizerBase, max_length: int, folder: Path) -> None:
    """Files that both versions of transformers read alike.

    Version 5 names a class that 4 does not know, and the other way round some keys; so the few that
    matter are written here. Padding and truncation that were baked in are taken out.
    """
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    backend |= {"padding": None, "truncation": None}
    special = {
        f"{name}_token": str(token)
        for name in SPECIAL_TOKENS
        if (token := getattr(tokenizer, f"{name}_token")) is not None
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "padding_side": "right",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        **special,
    }
    write_json(backend, folder / "tokenizer.json")
    write_json(settings, folder / "tokenizer_config.json")
    write_json(special, folder / "special_tokens_map.json")


def label_settings(source: ExportSource) -> dict[str, object]:
    """Names of a classifier's classes, and what the scores of a text are; empty for others."""
    if source.kind not in ("classifier", "token_classifier"):
        return {}
    count = len(source.model.state_dict()["classifier.bias"])
    names = source.labels if len(source.labels) == count else [f"LABEL_{i}" for i in range(count)]
    values: dict[str, object] = {
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
    }
    if source.kind == "classifier":
        several = source.settings is not None and source.settings.glue.multi_label
        kind = "multi_label_classification" if several else "single_label_classification"
        values["problem_type"] = "regression" if count == 1 else kind
    return values


def write_sentence_transformers(
    folder: Path, width: int, max_length: int, pooling: str, prompts: dict[str, str]
) -> None:
    """Make ``folder`` a SentenceTransformer: encoder, pooling, unit length.

    ``prompts`` are texts put before every query and document, by those names. The layout is one
    that versions 2 to 6 of sentence-transformers read.
    """
    package = "sentence_transformers.models"
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": f"{package}.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{package}.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": f"{package}.Normalize"},
    ]
    (folder / "1_Pooling").mkdir()
    (folder / "2_Normalize").mkdir()
    write_json(modules, folder / "modules.json")
    write_json(
        {
            "word_embedding_dimension": width,
            **{f"pooling_mode_{name}": way == pooling for way, name in POOLING.items()},
            "include_prompt": True,
        },
        folder / "1_Pooling" / "config.json",
    )
    write_json({}, folder / "2_Normalize" / "config.json")
    write_json(
        {"max_seq_length": max_length, "do_lower_case": False}, folder / "sentence_bert_config.json"
    )
    write_json(
        {"prompts": prompts, "default_prompt_name": None, "similarity_fn_name": "cosine"},
        folder / "config_sentence_transformers.json",
    )
