"""``Config`` as YAML: save it, and load what was saved."""

from dataclasses import asdict
from pathlib import Path

from omegaconf import OmegaConf

from neobert.config.layers import Layer, Merged, build
from neobert.config.root import Config
from neobert.config.yaml_file import read_settings
from neobert.files import write_atomically


def load_config_file(path: str | Path) -> Config:
    """The checked ``Config`` that a YAML file describes by itself: a run's ``config.yaml``.

    What the file leaves out keeps its default. Raises ``ConfigError`` with all that is wrong.
    """
    problems: list[str] = []
    layer = Layer.read(str(path), read_settings(Path(path)), problems)
    merged = Merged([layer])
    return build(merged.tree, merged.layers, merged.problems(problems))


def save_config(config: Config, path: str | Path) -> None:
    """Write all of ``config`` as YAML, atomically."""
    write_atomically(Path(path), to_yaml(config))


def to_yaml(config: Config) -> str:
    """``config`` as YAML, in the order of the dataclasses."""
    return OmegaConf.to_yaml(OmegaConf.create(asdict(config)))
