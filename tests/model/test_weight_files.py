"""500 damaged, cut and hostile folders: a clear error each, or weights that fit; no code runs."""

import json
import os
import pickle
import random
import shutil
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import neobert
from neobert.model.weight_files import PretrainedError

GOLDEN = Path(__file__).parents[1] / "golden/swiglu_rmsnorm_rope.safetensors"
FOLDERS = 500
VALUES = [None, True, -1, 0, 3, 2**31, 10**30, 1.5, "text", "", [], {}, [1], "../../x", "nan"]


class Bomb:
    """Its pickle writes a file when it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.marker,)


def cut(draw: random.Random, folder: Path) -> None:
    file = draw.choice([folder / "model.safetensors", folder / "config.json"])
    content = file.read_bytes()
    file.write_bytes(content[: draw.randrange(len(content))])


def flip(draw: random.Random, folder: Path) -> None:
    file = draw.choice([folder / "model.safetensors", folder / "config.json"])
    content = bytearray(file.read_bytes())
    for _ in range(draw.randint(1, 20)):
        content[draw.randrange(min(len(content), 4096))] = draw.randrange(256)
    file.write_bytes(content)


def noise(draw: random.Random, folder: Path) -> None:
    name = draw.choice(["model.safetensors", "config.json"])
    (folder / name).write_bytes(draw.randbytes(draw.randrange(2000)))


def header(draw: random.Random, folder: Path) -> None:
    """Lie about lengths, shapes, places or types."""
    file = folder / "model.safetensors"
    content = file.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    table = json.loads(content[8 : 8 + length])
    entry = table[draw.choice([name for name in table if name != "__metadata__"])]
    key = draw.choice(["shape", "data_offsets", "dtype"])
    lies = {
        "shape": [[], [-1], [2**62, 4], [1], "x"],
        "data_offsets": [[0, 2**60], [9, 3], [0, 0], [-4, 4]],
        "dtype": ["I64", "F64", "BOOL", "F16", "nonsense"],
    }
    entry[key] = draw.choice(lies[key])
    text = json.dumps(table).encode()
    told = draw.choice([len(text), 2**63, 2**40, 0, len(text) - 1])
    file.write_bytes(struct.pack("<Q", told) + text + content[8 + length :])


def settings(draw: random.Random, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    for name in draw.sample(sorted(config), draw.randint(1, 3)):
        config[name] = draw.choice(VALUES)
    (folder / "config.json").write_text(json.dumps(config))


def shapes(draw: random.Random, folder: Path) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    name = draw.choice(sorted(weights.keys() - {"decoder.weight"}))  # which may be left out
    del weights[name]
    changed = draw.choice([None, torch.ones(3), torch.ones(0), torch.ones(2, 2).long()])
    if changed is not None:
        weights[name] = changed
    save_file(weights, file)


def shards(draw: random.Random, folder: Path) -> None:
    """An index whose shards lie outside of the folder, or are no files."""
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    place = draw.choice(
        [
            "../outside.safetensors",
            str(folder.parent / "outside.safetensors"),
            "..\\outside.safetensors",
            "..",
            "",
            "missing.safetensors",
            "config.json",
        ]
    )
    index = draw.choice([{"weight_map": {"model.encoder.weight": place}}, {"weight_map": [place]}])
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def pickled(draw: random.Random, folder: Path) -> None:
    bomb = pickle.dumps(Bomb(folder.parent / "was-run"))
    (folder / "model.safetensors").unlink()
    name = draw.choice(["model.safetensors", "pytorch_model.bin", "model.pt", "config.json"])
    (folder / name).write_bytes(bomb)


def yaml_code(draw: random.Random, folder: Path) -> None:
    (folder / "config.json").unlink()
    marker = folder.parent / "was-run"
    text = draw.choice(
        [
            f"model: !!python/object/apply:os.system ['touch {marker}']",
            f"!!python/object/new:pathlib.Path ['{marker}']",
            "model: *unknown",
            "model: [1, 2",
            "- model",
            "model: {hidden_size: &a [*a]}",
            "[" * 5000,
        ]
    )
    (folder / "config.yaml").write_text(text)


def nested(draw: random.Random, folder: Path) -> None:
    depth = draw.choice([10**4, 10**5])
    (folder / "config.json").write_text('{"a":' * depth + "1" + "}" * depth)


DAMAGES: list[Callable[[random.Random, Path], None]] = [
    cut,
    flip,
    noise,
    header,
    settings,
    shapes,
    shards,
    pickled,
    yaml_code,
    nested,
]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    with safe_open(GOLDEN, "pt") as file:
        config = json.loads(file.metadata()["config"])
    weights = {key[2:]: value for key, value in load_file(GOLDEN).items() if key.startswith("w.")}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "neobert", **config}))
    return folder


def refusal(folder: Path) -> str | None:
    """The error that loading ends with, the only kind there may be; ``None`` if it loads."""
    try:
        neobert.load(folder)
    except PretrainedError as error:
        return str(error)
    return None


def test_damaged_and_hostile_folders_are_refused_with_a_clear_error(sound, tmp_path) -> None:
    assert neobert.load(sound).vocab_size == 96
    refused: Counter[str] = Counter()
    for number in range(FOLDERS):
        draw, damage = random.Random(number), DAMAGES[number % len(DAMAGES)]
        place = tmp_path / str(number)
        shutil.copytree(sound, place / "model")
        damage(draw, place / "model")
        message = refusal(place / "model")
        if message is not None:
            refused[damage.__name__] += 1
            assert str(place / "model") in message, "the message says which file"
            assert len(message) < 5000
        assert not (place / "was-run").exists(), f"{damage.__name__} {number} ran code"
        shutil.rmtree(place)
    share = FOLDERS // len(DAMAGES)
    for never in ("pickled", "yaml_code", "shards", "shapes", "nested", "noise"):
        assert refused[never] == share, f"{never}: {refused[never]} of {share} refused"
    assert all(refused[damage.__name__] > share // 2 for damage in DAMAGES)


def bomb() -> str:
    """A few lines of YAML that stand for 6 to the power of 10 values."""
    lines = ["a0: &a0 [x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 6)}]" for n in range(1, 10)]
    return "\n".join([*lines, "model: {hidden_size: *a9}"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "null", r"config\.json holds a NoneType"),
        ("config.json", '{"rope_scaling": "x"}', "rope_scaling is 'x', not a table"),
        ("config.json", '{"rope_scaling": {"rope_type": "x"}}', r"rope_scaling\.rope_type=x"),
        ("config.json", '{"hidden_act": ["x"]}', r"hidden_act is \['x'\], not a str"),
        ("config.json", '{"norm_eps": 0}', "norm_eps=0"),
        ("config.json", '{"pad_token_id": -1}', "pad_token_id=-1"),
        ("config.json", None, "has weights but neither"),
        ("config.yaml", None, "has weights but neither"),
        ("config.yaml", "- 1", r"config\.yaml: must hold keys and values"),
        ("config.yaml", bomb(), r"config\.yaml: cannot be read \(it holds more than"),
        ("config.yaml", "model: {a: 1, a: 2}", r"config\.yaml: cannot be read \(line 1: "),
        ("config.yaml", "model: 3", "has no section `model`"),
    ],
)
def test_an_odd_file_is_one_line_that_names_it(
    sound: Path, tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    folder = Path(shutil.copytree(sound, tmp_path / "model"))
    known = json.loads((folder / "config.json").read_text())
    (folder / "config.json").unlink()
    if content is None:
        os.mkfifo(folder / name)
    elif name == "config.json" and content.startswith("{"):
        (folder / name).write_text(json.dumps(known | json.loads(content)))
    else:
        (folder / name).write_text(content)
    with pytest.raises(PretrainedError, match=message) as error:
        neobert.load(folder)
    assert str(folder) in str(error.value)
    assert len(error.value.problems) == len(str(error.value).splitlines()) == 1
