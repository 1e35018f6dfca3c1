"""The manifest of a checkpoint: size and SHA-256 of each of its files, verified before use."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from neobert.files import first_line, read_json, sha256, write_json
from neobert.model.weight_files import MANIFEST, WEIGHTS

STATE = "trainer_state.pt"


def write_manifest(folder: Path, known: Mapping[str, str] = MappingProxyType({})) -> None:
    """Record every file of ``folder``; digests that are ``known`` by name are not made again."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = [path for path in paths if path != folder / MANIFEST]
    entries = {}
    for path in files:
        name = path.relative_to(folder).as_posix()
        digest = known[name] if name in known else sha256(path)
        entries[name] = {"size": path.stat().st_size, "sha256": digest}
    write_json(entries, folder / MANIFEST)


def damages(folder: Path, contents: bool = True) -> list[str]:
    """What is wrong with a checkpoint, file by file; empty if all checksums match.

    ``contents=False`` compares sizes only, which reads nothing but the manifest.
    """
    try:
        files = recorded_files(folder)
    except (OSError, ValueError) as error:
        return [f"{MANIFEST}: cannot be read ({first_line(error)})"]
    problems = [
        f"{MANIFEST}: does not list {name}" for name in (WEIGHTS, STATE) if name not in files
    ]
    for name, (size, digest) in files.items():
        path = folder / name
        if not _is_inside(name):
            problems.append(f"{MANIFEST}: lists {name!r}, which is outside the checkpoint")
        elif not path.is_file():
            problems.append(f"{name}: missing")
        elif path.stat().st_size != size:
            problems.append(f"{name}: {path.stat().st_size} bytes instead of {size}")
        elif contents and sha256(path) != digest:
            problems.append(f"{name}: its SHA-256 is not the recorded one")
    return problems


def recorded_files(folder: Path) -> dict[str, tuple[int, str]]:
    """Size in bytes and SHA-256 of each file by the manifest, by relative name.

    Raises ``OSError`` or ``ValueError`` if there is no manifest or it cannot be read.
    """
    entries = read_json(folder / MANIFEST)
    if not isinstance(entries, Mapping) or not all(map(_is_entry, entries.values())):
        raise ValueError("it is no table of sizes and SHA-256 digests")
    return {str(name): (entry["size"], entry["sha256"]) for name, entry in entries.items()}


def numbered(checkpoints: Path) -> list[Path]:
    """Folders below ``checkpoints`` whose name is a step, complete or not, by ascending step."""
    if not checkpoints.is_dir():
        return []
    folders = [path for path in checkpoints.iterdir() if is_step(path.name) and path.is_dir()]
    return sorted(folders, key=lambda path: int(path.name))


def is_step(text: str) -> bool:
    """Whether ``text`` is a number of optimizer steps."""
    return text.isascii() and text.isdecimal() and len(text) < 20


def list_checkpoints(checkpoints: Path) -> list[Path]:
    """Complete checkpoints below ``checkpoints``, by ascending step."""
    return [path for path in numbered(checkpoints) if (path / MANIFEST).is_file()]


def _is_entry(entry: object) -> bool:
    return isinstance(entry, Mapping) and {"size", "sha256"} <= entry.keys()


def _is_inside(name: str) -> bool:
    path = Path(name)
    return len(name) < 1024 and not path.is_absolute() and ".." not in path.parts
