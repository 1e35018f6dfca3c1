"""The class in transformers' core that is exactly the exported model, if there is one.

Folders of such a class load without code of ours: transformers, sentence-transformers and every
other client that knows ``eurobert`` or ``ultrabert`` do so without ``trust_remote_code``.
"""

from dataclasses import dataclass

import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from neobert.export.convert import label_settings
from neobert.export.source import ExportSource
from neobert.model.eurobert import EUROBERT, ULTRABERT, eurobert_config, reasons_unsupported
from neobert.model.heads import MaskedLM, SequenceClassifier


@dataclass(frozen=True, slots=True)
class CoreClass:
    """A class of transformers."""

    architecture: str
    model_type: str
    since: str
    """The first version of transformers that has it."""


CLASSES = {
    "masked_lm": CoreClass("EuroBertForMaskedLM", EUROBERT, "5.3"),
    "encoder": CoreClass("EuroBertModel", EUROBERT, "5.3"),
    "token_classifier": CoreClass("EuroBertForTokenClassification", EUROBERT, "5.3"),
    "question_answering": CoreClass("UltrabertForQuestionAnswering", ULTRABERT, "5.20"),
    "classifier": CoreClass("EuroBertForSequenceClassification", EUROBERT, "5.3"),
    "one-layer classifier": CoreClass("UltrabertForSequenceClassification", ULTRABERT, "5.20"),
}
TRAIN_A_NATIVE_HEAD = (
    "its classifiers have no tanh; glue.classifier_activation=gelu (or none) trains one that "
    "exports natively"
)


class NotNativeError(ValueError):
    """No class of transformers is exactly the model; the message says why."""


def native_class(source: ExportSource) -> CoreClass:
    """The class of transformers that is exactly the model of ``source``.

    Raises :class:`NotNativeError` if there is none, or if the transformers here does not have it.
    """
    if reasons := reasons_unsupported(source.encoder.config):
        raise NotNativeError(f"transformers has no class with {', '.join(reasons)}")
    model, kind = source.model, str(source.kind)
    if isinstance(model, MaskedLM) and model.decoder.bias is not None:
        raise NotNativeError("transformers has no such class with a bias of the decoder")
    if isinstance(model, SequenceClassifier):
        if model.settings.activation == "tanh":
            raise NotNativeError(TRAIN_A_NATIVE_HEAD)
        kind = "one-layer classifier" if model.dense is None else kind
    core = CLASSES[kind]
    if core.model_type not in CONFIG_MAPPING:
        raise NotNativeError(
            f"transformers {transformers.__version__} has no {core.model_type}, which is in it "
            f"from {core.since}"
        )
    return core


def native_config(source: ExportSource, core: CoreClass) -> dict[str, object]:
    """``config.json`` of the core class."""
    model, encoder, tokenizer = source.model, source.encoder, source.tokenizer
    start, end = tokenizer.cls_token_id, tokenizer.sep_token_id
    values = eurobert_config(encoder.config) | {
        "model_type": core.model_type,
        "architectures": [core.architecture],
        "dtype": "float32",
        "vocab_size": encoder.vocab_size,
        "pad_token_id": encoder.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id if start is None else start,
        "eos_token_id": tokenizer.eos_token_id if end is None else end,
        "tie_word_embeddings": isinstance(model, MaskedLM) and model.tied,
    }
    values |= label_settings(source)
    pooling = model.settings.pooling if isinstance(model, SequenceClassifier) else "cls"
    if core.model_type == EUROBERT:
        values["classifier_pooling"] = "bos" if pooling == "cls" else "mean"
        if tokenizer.mask_token_id is not None:
            values["mask_token_id"] = tokenizer.mask_token_id
    else:
        layers = encoder.config.num_hidden_layers
        values |= {
            "classifier_pooling": "cls" if pooling == "cls" else "mean",
            "classifier_dropout": source.classifier_dropout,
            "layer_types": ["full_attention"] * layers,
            "rope_parameters": {
                kind: values["rope_parameters"] for kind in ("full_attention", "sliding_attention")
            },
        }
    return values
