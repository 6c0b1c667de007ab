"""A checkpoint in words, for people."""

import math
from collections.abc import Mapping
from typing import Any

from etils import epath

from transformer.checkpoint import adapted
from transformer.checkpoint.compare import read_json
from transformer.checkpoint.leaves import Leaves, modules, origin, stored, trees
from transformer.checkpoint.migration import migrated
from transformer.checkpoint.provenance import NAME
from transformer.checkpoint.reading import check
from transformer.checkpoint.seal import sealed_files


def describe(checkpoint: epath.Path) -> list[str]:
    """Returns what a checkpoint is, line by line; reads no array.

    Raises:
      UserError: it is not complete, or damaged.
    """
    check(checkpoint)
    position = read_json(checkpoint / "data" / "position.json")
    leaves = {name: stored(checkpoint, name) for name in trees(checkpoint)}
    return [
        f"checkpoint    {checkpoint}",
        f"step          {position['step'] if position else checkpoint.name}",
        *_writing(checkpoint),
        f"architecture  {_values(read_json(checkpoint / 'record' / 'architecture.json') or {})}",
        *_base(checkpoint),
        *_experiment(migrated(read_json(checkpoint / "record" / "experiment.json"))),
        *_parts(checkpoint, leaves),
        *_parameters(leaves["params"]),
    ]


def product(mesh: Mapping[str, int]) -> str:
    """Returns a mesh in words."""
    number = math.prod(mesh.values())
    axes = " x ".join(f"{axis} {size}" for axis, size in mesh.items() if size > 1)
    return f"{number} devices: {axes}" if axes else "1 device"


def in_bytes(number: float) -> str:
    """Returns a number of bytes to three digits, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 999.5:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"


def _writing(checkpoint: epath.Path) -> list[str]:
    found, by = origin(checkpoint), read_json(checkpoint / "record" / NAME)
    when = f"{found.written:%Y-%m-%d %H:%M:%S} UTC" if found.written else "at a time that was not recorded"
    lines = [f"written       {when}, by {by['program'] if by else 'a program that was not recorded'}"]
    if by:
        versions = ", ".join(f"{name} {version}" for name, version in by["versions"].items())
        lines += [f"  with        Python {by['python']}, {versions}"]
        lines += [f"  from        {source}" for source in by.get("sources", ())]
        lines += [f"  on          {by['devices']} in {by['processes']} process{'es' if by['processes'] > 1 else ''}"]
    return [*lines, f"  laid out    on {product(found.mesh)}"]


def _base(checkpoint: epath.Path) -> list[str]:
    about = adapted.of(checkpoint)
    if about is None:
        return []
    return [f"adapter       rank {about.config.rank}, of {about.path} (digest {about.digest[:12]})"]


def _experiment(experiment: dict[str, Any] | None) -> list[str]:
    if experiment is None:
        return ["experiment    none: it was not trained here"]
    source = experiment.get("init", {}).get("path")
    shown = [name for name, value in experiment.items() if isinstance(value, dict) and name != "model"]
    groups = {name: experiment[name] for name in shown if name != "init" or source}
    started = f", from the weights of {source}" if source else ""
    return [
        f"experiment    {experiment.get('name')}{started}",
        *(f"  {name:12}{_values(value)}" for name, value in groups.items()),
    ]


def _parts(checkpoint: epath.Path, leaves: Mapping[str, Leaves]) -> list[str]:
    lines = []
    for path in sorted(checkpoint.iterdir()):
        if path.is_dir():
            sizes = [file.stat().length for file in sealed_files(path).values()]
            what = ""
            if path.name in leaves:
                dtypes = sorted({str(leaf.dtype) for leaf in leaves[path.name].values()})
                what = f": {len(leaves[path.name])} arrays of {', '.join(dtypes)}"
            if path.name == "record":
                what = f": {', '.join(sorted(entry.name for entry in path.iterdir() if _tells(entry)))}"
            lines.append(f"{path.name + '/':14}{in_bytes(sum(sizes))} in {len(sizes)} files{what}")
    return lines


def _tells(entry: epath.Path) -> bool:
    return entry.name != "commit_success.txt"  # which is Orbax's


def _parameters(leaves: Leaves) -> list[str]:
    total = sum(leaf.size for leaf in leaves.values())
    counts = modules(leaves).items()
    return [f"parameters    {total:,}", *(f"  {number:>16,} {number / total:6.1%}  {name}" for name, number in counts)]


def _values(record: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in record.items())
