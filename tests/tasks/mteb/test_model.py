"""Runs, checkpoints, folders and models of others: what is loaded, with which habits and name."""

import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from neobert.config.contrastive import ContrastiveConfig
from neobert.errors import ConfigError
from neobert.tasks.mteb.model import load_evaluated

TEXTS = ["the river", "capital city of the north", "exports"]


def encode(evaluated, texts: list[str] = TEXTS, **place: object):
    import mteb

    task = mteb.get_task("STSBenchmark")
    return evaluated.encoder.encode(
        [{"text": texts[:1]}, {"text": texts[1:]}],
        task_metadata=task.metadata,
        hf_split="test",
        hf_subset="default",
        **place,
    )


@pytest.fixture
def messages() -> Iterator[list[str]]:
    """What the loader says. By a handler of its own, wherever messages go otherwise."""
    found: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("neobert.tasks.mteb.model")
    logger.addHandler(handler)
    yield found
    logger.removeHandler(handler)


@pytest.fixture
def published(make_run, tmp_path: Path) -> Path:
    """The checkpoint in the published layout, as a sentence-transformers folder."""
    from neobert.export.convert import write_sentence_transformers

    checkpoint = make_run() / "checkpoints/20"
    folder = tmp_path / "published"
    shutil.copytree(checkpoint / "tokenizer", folder)
    shutil.copy(checkpoint / "model.safetensors", folder)
    config = {
        "model_type": "neobert",
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "max_length": 64,
        "norm_eps": 1e-5,
        "pad_token_id": 0,
    }
    (folder / "config.json").write_text(json.dumps(config))
    write_sentence_transformers(folder, 32, 64, "avg", {"query": "ask: ", "document": ""})
    return folder


@pytest.mark.proves("mteb_model")
def test_run_checkpoint_and_published_folder_give_the_same_vectors(
    make_run, published, compose
) -> None:
    run = make_run()
    sources = {
        f"trainer.output_dir={run}": "20",
        f"mteb_model={run}": "my-run-20",
        f"mteb_model={run}/checkpoints/20": "my-run-20",
        f"mteb_model={published}": "published",
    }
    vectors, digests = [], set()
    for word, label in sources.items():
        evaluated = load_evaluated(compose(word))
        assert evaluated.label == label
        vectors.append(encode(evaluated))
        digests.add(evaluated.encoder.mteb_model_meta.revision.split("-")[0])
    assert len(digests) == 1
    for other in vectors[1:]:
        torch.testing.assert_close(torch.tensor(other), torch.tensor(vectors[0]))


def test_a_contrastive_checkpoint_brings_its_prefixes_and_a_word_on_its_pooling(
    make_run, compose, messages
) -> None:
    from mteb.types import PromptType

    habits = ContrastiveConfig(pooling="cls", query_prefix="the ", document_prefix="")
    run = make_run(task="contrastive", contrastive=habits)
    evaluated = load_evaluated(compose(f"trainer.output_dir={run}"))
    assert evaluated.encoder.model_prompts == {"query": "the "}
    (message,) = messages
    assert "trained with cls pooling and is evaluated with mteb_pooling=mean" in message
    plain = encode(evaluated, ["the river", "the city"])
    asked = encode(evaluated, ["river", "city"], prompt_type=PromptType.query)
    torch.testing.assert_close(torch.tensor(asked), torch.tensor(plain))
    own = load_evaluated(compose(f"trainer.output_dir={run}", "mteb_prompts={STS: 'x '}"))
    assert own.encoder.model_prompts == {"STS": "x "}
    assert own.encoder.mteb_model_meta.revision != evaluated.encoder.mteb_model_meta.revision


def test_a_published_folder_brings_its_prompts(published, compose) -> None:
    evaluated = load_evaluated(compose(f"mteb_model={published}"))
    assert evaluated.encoder.model_prompts == {"query": "ask: "}


@pytest.mark.proves("mteb_batch_size")
def test_batches_hold_as_many_tokens_as_full_texts(make_run, compose, monkeypatch) -> None:
    evaluated = load_evaluated(
        compose(f"trainer.output_dir={make_run()}", "mteb_batch_size=3", "mteb_max_length=4")
    )
    sizes = []
    model = evaluated.encoder.model.encoder
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0].input_ids)))
    encode(evaluated, [f"river city sea of the north {number}" for number in range(7)])
    assert sizes == [12, 12, 4]


def test_the_name_says_whose_weights_they_are(make_run, compose) -> None:
    exact = "trainer.mixed_precision=no"  # else it depends on the CPU whether bf16 runs
    one = load_evaluated(compose(f"trainer.output_dir={make_run()}", exact)).encoder.mteb_model_meta
    two = load_evaluated(compose(f"trainer.output_dir={make_run('b', seed=1)}", exact))
    assert one.name == "neobert/my-run-20"
    assert two.encoder.mteb_model_meta.name == "neobert/b-20"
    assert one.revision.split("-")[1:] == ["avg", "64"]
    assert two.encoder.mteb_model_meta.revision.split("-")[0] != one.revision.split("-")[0]


@pytest.mark.proves("trainer.mixed_precision")
def test_bf16_is_part_of_the_revision(make_run, compose) -> None:
    words = [f"trainer.output_dir={make_run()}", "trainer.emulate_bf16=true"]
    exact = load_evaluated(compose(*words, "trainer.mixed_precision=no"))
    rounded = load_evaluated(compose(*words, "trainer.mixed_precision=bf16"))
    assert rounded.encoder.mteb_model_meta.revision.endswith("-64-bf16")
    cosine = torch.cosine_similarity(torch.tensor(encode(rounded)), torch.tensor(encode(exact)))
    assert cosine.min() > 0.999


def test_weights_without_a_tokenizer_take_that_of_the_settings(
    make_run, tokenizer_folder, compose
) -> None:
    run = make_run()
    with_own = encode(load_evaluated(compose(f"trainer.output_dir={run}")))
    bare = run.parent / "bare"
    shutil.copytree(run / "checkpoints/20", bare)
    shutil.rmtree(bare / "tokenizer")
    with pytest.raises(ConfigError, match=r"is damaged: tokenizer/tokenizer\.json: missing"):
        load_evaluated(compose(f"mteb_model={bare}"))
    for name in ("manifest.json", "trainer_state.pt"):  # a folder of bare weights
        (bare / name).unlink()
    with pytest.raises(ConfigError, match=r"has no tokenizer/.* or set tokenizer\.path"):
        load_evaluated(compose(f"mteb_model={bare}"))
    words = [f"tokenizer.path={tokenizer_folder}", "tokenizer.train_vocab_size=null"]
    evaluated = load_evaluated(compose(f"mteb_model={bare}", *words))
    torch.testing.assert_close(torch.tensor(encode(evaluated)), torch.tensor(with_own))


def test_learned_positions_end_where_they_end(make_run, compose) -> None:
    from neobert.config.root import Config

    shape = replace(
        Config().model,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=16,
        rope=False,
    )
    run = make_run()
    folder = make_run("learned")
    config = (run / "config.yaml").read_text()
    assert load_evaluated(compose(f"trainer.output_dir={run}", "mteb_max_length=99"))
    for file in (folder / "config.yaml", folder / "checkpoints/20/config.yaml"):
        file.write_text(config.replace("rope: true", "rope: false", 1))
    weights = load_file(folder / "checkpoints/20/model.safetensors")
    weights["positional_embedding.weight"] = torch.zeros(65, shape.hidden_size)
    bare = folder.parent / "learned-bare"
    bare.mkdir()
    save_file(weights, bare / "model.safetensors")
    shutil.copy(folder / "config.yaml", bare)
    shutil.copytree(folder / "checkpoints/20/tokenizer", bare / "tokenizer")
    assert load_evaluated(compose(f"mteb_model={bare}"))
    with pytest.raises(ConfigError, match="mteb_max_length=99 is longer than the 64 positions"):
        load_evaluated(compose(f"mteb_model={bare}", "mteb_max_length=99"))
