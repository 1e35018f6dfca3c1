"""Checkpoints to export; and no trace of the tests in the user's cache of modules."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

TEXT = [
    "The capital of France is Paris, and the capital of Spain is Madrid.",
    "An encoder reads a text from both sides; a decoder reads it from one.",
    "Hello world, this is a first text. Another one follows the first one.",
    "naïve 東京 3.14 ! ? a b c d e f g h i j k l m n o p q r s t u v w x y z",
]
SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}


@pytest.fixture(autouse=True, scope="session")
def _own_cache_of_remote_code(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    import transformers.dynamic_module_utils

    folder: Path = tmp_path_factory.mktemp("modules")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(folder))
        yield


def write_tokenizer(folder: Path) -> None:
    """A small WordPiece tokenizer, saved as training saves it."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = list(SPECIAL.values())
    trainer = trainers.WordPieceTrainer(vocab_size=150, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]", [("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_truncation(16)  # baked in, as some published tokenizers have it
    names = {f"{name}_token": token for name, token in SPECIAL.items()}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A run folder of a task with one checkpoint of random weights: ``make_run("glue")``."""

    def make(
        task: str = "pretraining",
        step: int = 20,
        labels: int = 3,
        names: tuple[str, ...] = (),
        **changes: object,
    ) -> Path:
        from neobert.config.store import save_config
        from neobert.files import write_json
        from neobert.training.checkpoint import FolderCheckpointIO

        config = run_config(task, **changes)
        model = random_model(config, task, labels)
        run = tmp_path_factory.mktemp("run") / "my-run"

        def extras(folder: Path) -> None:
            save_config(config, folder / "config.yaml")
            write_tokenizer(folder / "tokenizer")
            information = {"pad_token_id": 0, "vocab_size": 160, "labels": list(names)}
            write_json(information, folder / "tokenizer_info.json")

        state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
        (run / "checkpoints").mkdir(parents=True)
        FolderCheckpointIO(extras).save_checkpoint(
            {"state_dict": state}, run / "checkpoints" / str(step)
        )
        write_results(run, step)
        return run

    return make


def run_config(task: str, query_prefix: str = "", pooling: str = "avg", **changes: object):
    """Settings of a small run; ``changes`` are those of the model or of the classifier."""
    from dataclasses import replace

    from neobert.config.root import Config

    shape = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
        "embedding_init_range": 0.5,
        "decoder_init_range": 0.3,
    }
    head = {name: changes.pop(name) for name in list(changes) if name.startswith("classifier_")}
    default = Config()
    return replace(
        default,
        task=task,
        model=replace(default.model, **{**shape, **changes}),
        dataset=replace(default.dataset, max_seq_length=64),
        glue=replace(default.glue, max_seq_length=64, **head),
        contrastive=replace(
            default.contrastive,
            query_prefix=query_prefix,
            pooling=pooling,
            allow_random_weights=True,
        ),
    )


def random_model(config, task: str, labels: int) -> torch.nn.Module:
    from neobert.model.heads import ClassifierSettings, MaskedLM, SequenceClassifier

    model = MaskedLM(config.model, vocab_size=160, pad_token_id=0)
    for parameter in model.parameters():
        parameter.data += torch.randn_like(parameter) / 10  # norms and padding rows too
    if task == "glue":
        settings = ClassifierSettings(
            activation=config.glue.classifier_activation,
            pooling=config.glue.classifier_pooling,
            init_std=0.2,
        )
        return SequenceClassifier(model.model, labels, settings)
    return model.model if task == "contrastive" else model


def write_results(run: Path, step: int) -> None:
    from neobert.files import write_json

    write_json(
        {
            "steps": step,
            "tokens": 123456,
            "seconds": 90.0,
            "command": "python -m neobert.train experiment=quickstart",
            "neobert": "0.1.0",
            "commit": "abc",
            "python": "3.11.2",
            "packages": {"torch": "2.13.0"},
            "derived": {"devices": 1, "precision": "32-true"},
        },
        run / "summary.json",
    )
    (run / "metrics.csv").write_text(f"step,eval/loss,eval/accuracy\n10,9,0\n{step},2.5,0.5\n")
    (run / "loss.png").write_bytes(b"\x89PNG")
