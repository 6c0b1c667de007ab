"""Two checkpoints side by side: their trees, shapes and dtypes, the largest difference of each array, their records."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict

from transformer.checkpoint.leaves import TREES, Leaf, Leaves, stored, trees
from transformer.checkpoint.migration import migrated
from transformer.checkpoint.reading import check
from transformer.checkpoint.seal import sealed_files
from transformer.checkpoint.stream import leaf_groups, read_leaves
from transformer.errors import UserError

_BLOCK = 2**22
"""Elements compared at a time, in float64."""
_BY_FIELD = {"architecture": "record/architecture.json", "experiment": "record/experiment.json"}
_POSITION = "data/position.json"
_OF_THE_WRITING = {"digests.json", "written_by.json", "commit_success.txt"}
"""Files of a record that tell how and by whom it was written, not what."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How two checkpoints, A and B, differ. Paths begin with the tree: `params/head/kernel`."""

    only_a: Leaves
    """Arrays that B lacks."""
    only_b: Leaves
    """Arrays that A lacks."""
    mismatched: dict[str, tuple[Leaf, Leaf]]
    """Arrays of another shape or dtype."""
    largest: dict[str, float]
    """Array of the same shape in both -> the largest absolute difference of its elements; NaN against a number is NaN,
    and NaN against NaN 0."""
    fields: dict[str, tuple[Any, Any]]
    """Dotted field of the architecture, the experiment or the position in the data -> (A's, B's), where they differ;
    None where there is none."""
    files: list[str]
    """Other files of the records, such as the tokenizer's, that are not the same."""

    @property
    def differing(self) -> dict[str, float]:
        """The entries of `largest` that are not 0: the largest first, NaN before all."""
        changed = {path: value for path, value in self.largest.items() if value != 0}
        return dict(sorted(changed.items(), key=lambda item: (not np.isnan(item[1]), -item[1])))

    @property
    def equal(self) -> bool:
        """Whether the two hold the same."""
        return not (self.only_a or self.only_b or self.mismatched or self.differing or self.fields or self.files)


def compare(a: epath.Path, b: epath.Path, progress: Callable[[int], Any] = lambda _: None) -> Comparison:
    """Returns how two checkpoints differ; holds a few arrays of each at a time.

    Args:
      a: `CHECKPOINTS/STEP`.
      b: another.
      progress: gets the bytes of A that were compared since the last call.

    Raises:
      UserError: one of them is damaged.
    """
    check(a)
    check(b)
    only_a, only_b, mismatched, largest = {}, {}, {}, {}
    for tree in TREES:
        ours, theirs = (stored(path, tree) if tree in trees(path) else {} for path in (a, b))
        only_a |= {f"{tree}/{path}": leaf for path, leaf in ours.items() if path not in theirs}
        only_b |= {f"{tree}/{path}": leaf for path, leaf in theirs.items() if path not in ours}
        both = {path: (leaf, theirs[path]) for path, leaf in ours.items() if path in theirs}
        mismatched |= {
            f"{tree}/{path}": pair
            for path, pair in both.items()
            if (pair[0].shape, pair[0].dtype) != (pair[1].shape, pair[1].dtype)
        }
        for group in leaf_groups({path: our for path, (our, their) in both.items() if our.shape == their.shape}):
            first, second = (read_leaves(path, tree, group) for path in (a, b))
            for path in group:
                largest[f"{tree}/{path}"] = largest_difference(first[path], second[path])
                progress(ours[path].bytes)
    return Comparison(only_a, only_b, mismatched, largest, _fields(a, b), _differing_files(a, b))


def largest_difference(x: np.ndarray, y: np.ndarray) -> float:
    """Returns the largest absolute difference of two arrays of one shape, in float64."""
    ours, theirs, largest = x.reshape(-1), y.reshape(-1), 0.0
    for start in range(0, ours.size, _BLOCK):
        a, b = (array[start : start + _BLOCK].astype(np.float64) for array in (ours, theirs))
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        with np.errstate(invalid="ignore"):  # an infinity less itself
            difference = np.where(same, 0.0, np.abs(a - b))
        largest = float(np.maximum(largest, difference.max()))  # which keeps a NaN
    return largest


def differing_fields(a: Any, b: Any) -> dict[str, tuple[Any, Any]]:
    """Returns dotted field -> (A's value, B's), for every field in which two JSON objects differ."""
    ours, theirs = (flatten_dict(record, sep=".") for record in (a, b))
    return {
        field: (ours.get(field), theirs.get(field))
        for field in {**ours, **theirs}
        if (field in ours, ours.get(field)) != (field in theirs, theirs.get(field))
    }


def _fields(a: epath.Path, b: epath.Path) -> dict[str, tuple[Any, Any]]:
    fields = {}
    for name, file in {**_BY_FIELD, "position": _POSITION}.items():
        ours, theirs = (migrated(read_json(path / file) or {}) for path in (a, b))
        for record in (ours, theirs):
            record.pop("cluster", None)  # it says nothing of what a checkpoint holds, and older ones lack it
        fields |= {f"{name}.{field}": values for field, values in differing_fields(ours, theirs).items()}
    return fields


def read_json(file: epath.Path) -> dict[str, Any] | None:
    """Returns a file's JSON object; None where there is no file."""
    if not file.exists():
        return None
    try:
        record = json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{file}: not JSON ({error})") from error
    if not isinstance(record, dict):
        raise UserError(f"{file}: not a JSON object")
    return record


def _differing_files(a: epath.Path, b: epath.Path) -> list[str]:
    ours, theirs = (record_files(path) for path in (a, b))
    shown = {file.removeprefix("record/") for file in _BY_FIELD.values()}
    return sorted(name for name in {*ours, *theirs} - shown if ours.get(name) != theirs.get(name))


def record_files(checkpoint: epath.Path) -> dict[str, bytes]:
    """Returns the files of a checkpoint's record, without those that tell of its writing alone: name -> content."""
    files = sealed_files(checkpoint / "record")
    return {name: path.read_bytes() for name, path in files.items() if path.name not in _OF_THE_WRITING}
