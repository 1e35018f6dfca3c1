"""A run of random weights to evaluate, with a tokenizer that knows the Factbook's words."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

Make = Callable[..., Path]
WIDTH = 32


@pytest.fixture(autouse=True)
def _own_datasets_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    return iter(())


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from neobert.data.wordpiece import train_wordpiece
    from neobert.tasks.mteb.factbook import fields

    folder = tmp_path_factory.mktemp("tokenizer")
    texts = [one.text for one in fields(held_out=True)]
    train_wordpiece(lambda: texts, 1024).save_pretrained(folder)
    return folder


@pytest.fixture
def make_run(tmp_path: Path, tokenizer_folder: Path) -> Make:
    """``make_run(task="contrastive", steps=(10, 20), seed=1)``: a run folder."""

    def make(
        name: str = "my-run", steps: tuple[int, ...] = (20,), seed: int = 0, **changes: object
    ) -> Path:
        from transformers import PreTrainedTokenizerFast

        from neobert.config.root import Config
        from neobert.config.store import save_config
        from neobert.model.encoder import Encoder
        from neobert.training.checkpoint import FolderCheckpointIO

        run = tmp_path / name
        default = Config()
        shape = replace(
            default.model,
            hidden_size=WIDTH,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=48,
            max_position_embeddings=64,
            embedding_init_range=1.0,
            decoder_init_range=0.1,
        )
        config = replace(default, model=shape, **changes)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_folder)

        def extras(folder: Path) -> None:
            save_config(config, folder / "config.yaml")
            tokenizer.save_pretrained(folder / "tokenizer")
            (folder / "tokenizer_info.json").write_text(json.dumps({"pad_token_id": 0}))

        for step in steps:
            torch.manual_seed(seed + step)
            encoder = Encoder(config.model, vocab_size=1024, pad_token_id=0)
            state = {f"model.{key}": value for key, value in encoder.state_dict().items()}
            state_dict = {
                "state_dict": state,
                "callbacks": {"Checkpointer": {"best_value": 1.0, "best_step": steps[0]}},
            }
            (run / "checkpoints").mkdir(parents=True, exist_ok=True)
            FolderCheckpointIO(extras).save_checkpoint(state_dict, run / "checkpoints" / str(step))
        save_config(config, run / "config.yaml")
        return run

    return make


@pytest.fixture
def compose(tmp_path: Path) -> Callable[..., object]:
    """The configuration of a command line."""
    from neobert.config.compose import compose_config

    def made(*words: str) -> object:
        return compose_config(["task=mteb", "trainer.use_cpu=true", *words])

    return made


@pytest.fixture
def sts_file(tmp_path: Path) -> Path:
    """Scored pairs in columns of other names."""
    words = ["river", "city", "export", "climate", "party", "railway"]
    rows = [
        {
            "a": f"the {one} of the {two}",
            "b": f"the {one} and the {three}",
            "gold": float(one == two),
        }
        for one in words
        for two in words
        for three in words[:2]
    ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


STS_COLUMNS = "columns: {sentence1: a, sentence2: b, score: gold}"


@pytest.fixture
def local_sts(sts_file: Path) -> str:
    """The word of the command line that makes it a task."""
    return f"mteb_local={{Pairs: {{type: sts, path: {sts_file}, {STS_COLUMNS}}}}}"
