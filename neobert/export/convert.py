"""From our model to the files of an exported folder: names, settings, tokenizer."""

import json
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from neobert.config.model import ModelConfig, Part, fields_of
from neobert.export.source import ExportSource, Model
from neobert.files import write_json
from neobert.model.heads import MaskedLM, SequenceClassifier, TokenClassifier

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
ARCHITECTURES = {
    "masked_lm": "NeoBERTLMHead",
    "classifier": "NeoBERTForSequenceClassification",
    "token_classifier": "NeoBERTForTokenClassification",
    "question_answering": "NeoBERTForQuestionAnswering",
    "encoder": "NeoBERT",
}
PUBLISHED_PARTS: tuple[Part, ...] = ("shape", "positions", "initialisation")
"""Settings that ``config.json`` has under the same name."""

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
    if isinstance(model, SequenceClassifier):
        values |= label_settings(source, model.classifier.out_features)
        values |= {
            "classifier_dropout": source.classifier_dropout,
            "classifier_activation": model.settings.activation,
            "classifier_pooling": model.settings.pooling,
        }
    if isinstance(model, TokenClassifier) and source.kind == "token_classifier":
        values |= token_labels(source, model)
    return values


def token_labels(source: ExportSource, model: TokenClassifier) -> dict[str, object]:
    """Names of the classes of tokens."""
    names = label_settings(source, model.get_submodule(model.head).out_features)  # type: ignore[arg-type]
    return {name: value for name, value in names.items() if name != "problem_type"}


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


def label_settings(source: ExportSource, count: int) -> dict[str, object]:
    """Names of the ``count`` classes, and what the scores are."""
    names = source.labels if len(source.labels) == count else [f"LABEL_{i}" for i in range(count)]
    return {
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
        "problem_type": "regression" if count == 1 else f"{source.labels_per_text}_classification",
    }
