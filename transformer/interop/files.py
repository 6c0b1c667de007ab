"""Files of a folder in the Hugging Face format: JSON, and shards of weights; git-lfs pointers are refused."""

import json
from pathlib import Path
from typing import Any

from etils import epath

from transformer.errors import UserError

_POINTER = b"version https://git-lfs.github.com/spec/"


def check_fetched(path: Path | epath.Path) -> None:
    """Raises `UserError` where a file is a git-lfs pointer; a missing file is none."""
    try:
        with path.open("rb") as file:
            start = file.read(len(_POINTER))
    except OSError:
        return  # the reader reports why it cannot be read
    if start == _POINTER:
        raise UserError(f"{path} is a git-lfs pointer, not the file: run git lfs pull in its repository")


def parse_json(path: epath.PathLike) -> Any:
    """Returns the content of a JSON file; raises UserError naming the file where it cannot be read."""
    path = epath.Path(path)
    check_fetched(path)
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error})") from error


def read_json(path: epath.PathLike) -> dict[str, Any]:
    """Returns a file's JSON object; raises UserError naming the file where there is none."""
    record = parse_json(path)
    if not isinstance(record, dict):
        raise UserError(f"{path}: not a JSON object")
    return record


def read_weight_map(index: Path) -> dict[str, str]:
    """Returns an index's tensor name -> shard; raises UserError where it has none."""
    weight_map = read_json(index).get("weight_map")
    if not weight_map or not isinstance(weight_map, dict) or not all(isinstance(f, str) for f in weight_map.values()):
        raise UserError(f"{index}: no weight_map of names to files")
    return weight_map


def shard_path(index: Path, name: str) -> Path:
    """Returns the path of a shard that an index names; raises UserError unless it is a file beside the index."""
    path = index.parent / name
    if Path(name).name != name:
        raise UserError(f"{index} names a file outside of its folder: {name!r}")
    if not path.exists():
        raise UserError(f"{path}: no such file: a shard is missing")
    check_fetched(path)
    return path
