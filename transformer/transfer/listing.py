"""What became of every array when a run started from other weights, in a few lines for people."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from transformer.params import modules_of
from transformer.transfer.graft import Graft

_FEW = 6
"""So many arrays are named in full; of more, a module whose arrays all share a fate is named instead."""


def listing(
    fates: Graft, have: Mapping[str, Any], want: Mapping[str, Any], frozen: Collection[str] = ()
) -> Iterator[str]:
    """Yields a line a fate.

    Args:
      fates: of all arrays.
      have: path -> the source's array, with the names of its axes.
      want: path -> the target's.
      frozen: the target's that an adapter is trained beside.
    """
    if frozen:
        yield f"frozen: {grouped(frozen, want)}"
    if fates.taken or not (fates.picked or frozen):
        yield f"taken: {grouped(fates.taken, want)}"
    for layers in sorted(set(fates.picked.values())):
        paths = [path for path in fates.picked if fates.picked[path] == layers]
        yield f"taken of layers {', '.join(map(str, layers))}: {grouped(paths, want)}"
    for rule, name in sorted({(how.rule, how.name) for how in fates.extended.values()}):
        sizes = [
            f"{path} {have[path].value.shape} -> {want[path].value.shape}"
            for path, how in fates.extended.items()
            if (how.rule, how.name) == (rule, name)
        ]
        yield f"extended along {name} by {rule}: {', '.join(sizes)}"
    if fates.new:
        yield f"new: {grouped(fates.new, want)}"
    if fates.left:
        yield f"left out: {grouped(fates.left, have)}"


def grouped(paths: Collection[str], of: Collection[str]) -> str:
    """Returns the names of some arrays of a model: all of a few; of many, whole modules with the number of arrays.

    Args:
      paths: what to name, in order.
      of: the paths of all of the model's arrays.
    """
    if len(paths) <= _FEW:
        return ", ".join(paths) or "nothing"
    chosen = set(paths)
    broken = {module for path in of if path not in chosen for module in modules_of(path)}
    groups: dict[str, list[str]] = {}
    for path in paths:
        whole = next((module for module in modules_of(path) if module not in broken), path)
        groups.setdefault(whole, []).append(path)
    return ", ".join(f"{name}/* ({len(group)})" if len(group) > 1 else group[0] for name, group in groups.items())
