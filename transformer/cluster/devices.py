"""Devices: which of a machine's accelerators each process of a job takes, before any backend starts.

Left to itself, JAX gives a process one GPU under Slurm and MPI, whatever its task was given, and all of them where it
is started by hand. Here the processes of a machine tell each other what they see. Those that see the same share it
evenly, in the order of their numbers; those that see different ones take all that they see. What is then left over
nobody would ever notice, so it is refused by the machine's name.
"""

import collections
import dataclasses
import importlib.util
import os
import re
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformer.errors import UserError

LOCAL_IDS = "JAX_LOCAL_DEVICE_IDS"


@dataclasses.dataclass(frozen=True)
class View:
    """The accelerators of this process's machine, as it sees them; plain JSON values."""

    host: str
    """The machine's name."""
    boot: str
    """The machine, where several have one name."""
    kind: str
    """GPU or TPU; of neither, there is nothing to divide."""
    visible: list[str]
    """Names of those that this process may use, in the order of its device numbers."""
    total: int
    """How many the machine has, or was seen to have: at least those that are visible."""
    chosen: list[int] | None
    """Numbers among the visible that this process was told to take."""
    given_by: str
    """What narrowed them, for messages."""


def look(environ: Mapping[str, str], root: Path = Path("/")) -> View:
    """Returns what this process may use of its machine.

    Args:
      environ: this process's variables.
      root: where the machine's `dev` is.

    Raises:
      UserError: `JAX_LOCAL_DEVICE_IDS` is no list of numbers.
    """
    platforms = environ.get("JAX_PLATFORMS", "")
    kind, nodes, visible, given_by = "CPU", [], [], ""
    if not platforms or re.search("cuda|gpu", platforms):
        nodes = _gpus(root)
        visible, given_by = _narrowed(
            environ, ("CUDA_VISIBLE_DEVICES",), [name for name in nodes if _allowed(root, name)]
        )
        if nodes or visible or (_slurm_gpus(environ) and not (root / "dev" / "kfd").exists()):  # kfd: AMD's
            kind = "GPU"
    if kind == "CPU" and (not platforms or "tpu" in platforms):
        nodes = _nodes(root / "dev", r"accel(\d+)") or _nodes(root / "dev" / "vfio", r"(\d+)")
        visible, given_by = _narrowed(environ, ("TPU_VISIBLE_CHIPS", "TPU_VISIBLE_DEVICES"), nodes)
        if nodes and importlib.util.find_spec("libtpu"):  # else other hardware has such files
            kind = "TPU"
    if kind == "CPU":
        nodes, visible, given_by = [], [], ""
    total = max(len(visible), len(nodes), _slurm_gpus(environ) if kind == "GPU" else 0)
    if any(name.startswith("MIG-") for name in visible):  # parts of GPUs: how many of them there are is not known
        total = len(visible)
    boot = root / "proc" / "sys" / "kernel" / "random" / "boot_id"
    return View(
        host=socket.gethostname(),
        boot=boot.read_text().strip() if boot.exists() else "",
        kind=kind,
        visible=visible,
        total=total,
        chosen=_chosen(environ),
        given_by=given_by,
    )


def divide(views: Sequence[View]) -> list[list[str]]:
    """Returns the devices of each process, by their names among those that it sees.

    Args:
      views: what each process sees, by process index.

    Raises:
      UserError: the processes of a machine cannot share its devices evenly, or would use one twice.
    """
    own: list[list[str]] = [[] for _ in views]
    for members in _machines(views).values():
        sharing = collections.defaultdict(list)
        for index in members:
            view = views[index]
            if view.chosen is None:
                sharing[frozenset(view.visible)].append(index)
            elif outside := [number for number in view.chosen if view.kind == "GPU" and number >= len(view.visible)]:
                raise UserError(
                    f"{LOCAL_IDS} names device {outside[0]} on {view.host}, where process {index} sees "
                    f"{_counted(len(view.visible), view.kind)}"
                )
            else:
                own[index] = [view.visible[number] for number in view.chosen if number < len(view.visible)]
        for group in sharing.values():
            _share(views, group, own)
        _refuse_twice(views, members, own)
    return own


def refuse_unused(views: Sequence[View], own: Sequence[Sequence[str]]) -> None:
    """Refuses a job that leaves devices of its machines unused; names the machines.

    Raises:
      UserError: see above.
    """
    lines = []
    for members in _machines(views).values():
        used = sum(len(own[index]) for index in members)
        total, view = max(views[index].total for index in members), views[members[0]]
        if used < total:
            narrowed = f", as {view.given_by} says" if view.given_by else ""
            lines.append(f"{view.host} has {_counted(total, view.kind)} and this job uses {used} of them{narrowed}")
    if lines:
        more = f"; and so on, {len(lines)} machines in all" if len(lines) > 3 else ""
        raise UserError(
            f"{'; '.join(lines[:3])}{more}: ask for all (Slurm: --gpus-per-node), or say --shared-hosts if the others "
            "are not this job's"
        )


def local_ids(view: View, own: Sequence[str]) -> list[int]:
    """Returns the numbers by which this process's JAX knows its devices."""
    return [view.visible.index(name) for name in own]


def machines(views: Sequence[View]) -> int:
    """Returns how many machines the processes run on."""
    return len(_machines(views))


def _machines(views: Sequence[View]) -> dict[tuple[str, str], list[int]]:
    """Returns machine -> its processes."""
    members: dict[tuple[str, str], list[int]] = {}
    for index, view in enumerate(views):
        members.setdefault((view.host, view.boot), []).append(index)
    return members


def _share(views: Sequence[View], group: Sequence[int], own: list[list[str]]) -> None:
    """Divides what a group of processes sees alike between them."""
    view = views[group[0]]
    each, rest = divmod(len(view.visible), len(group))
    if view.kind == "TPU":  # libtpu takes all of a process's, or what its own variables say
        each, rest = len(view.visible), 0
    elif rest or (not each and view.kind == "GPU"):
        remedy = "start a number of processes on it that divides them"
        if not view.visible:
            remedy = "ask for some (Slurm: --gpus-per-node), or set JAX_PLATFORMS=cpu if the CPU is meant"
        raise UserError(
            f"{len(group)} process{'es' if len(group) > 1 else ''} on {view.host} for "
            f"{_counted(len(view.visible), view.kind)}: {remedy}"
        )
    for place, index in enumerate(group):
        first = 0 if view.kind == "TPU" else place * each
        own[index] = list(view.visible[first : first + each])


def _refuse_twice(views: Sequence[View], members: Sequence[int], own: Sequence[Sequence[str]]) -> None:
    taken: dict[str, int] = {}
    for index in members:
        for name in own[index]:
            if name in taken:
                raise UserError(
                    f"processes {taken[name]} and {index} on {views[index].host} would both use {views[index].kind} "
                    f"{name}: give each its own, or all of them the same list and leave {LOCAL_IDS} unset"
                )
            taken[name] = index


def _nodes(folder: Path, pattern: str) -> list[str]:
    """Returns the numbers of a folder's device files, in ascending order."""
    names = os.listdir(folder) if folder.is_dir() else []
    numbers = [int(match[1]) for name in names if (match := re.fullmatch(pattern, name))]
    return [str(number) for number in sorted(numbers)]


def _gpus(root: Path) -> list[str]:
    """Returns the numbers of NVIDIA's GPUs. The driver lists them where nothing has made their files yet, and in some
    containers also those that the container was not given.
    """
    listed = root / "proc" / "driver" / "nvidia" / "gpus"
    there = len(os.listdir(listed)) if listed.is_dir() else 0
    return _nodes(root / "dev", r"nvidia(\d+)") or [str(number) for number in range(there)]


def _allowed(root: Path, number: str) -> bool:
    """Whether this process may open a GPU: Slurm shows all of a machine and closes those of others."""
    path = root / "dev" / f"nvidia{number}"
    return not path.exists() or os.access(path, os.R_OK | os.W_OK)


def _narrowed(environ: Mapping[str, str], variables: Sequence[str], there: list[str]) -> tuple[list[str], str]:
    """Returns the names of the devices that a variable leaves of those that are there, and the variable."""
    variable = next((name for name in variables if name in environ), None)
    if variable is None:
        return there, ""
    names = []
    for item in environ[variable].split(","):
        item = item.strip()
        if not item or not (item.isdigit() or item.startswith(("GPU-", "MIG-"))):
            break  # CUDA reads no further
        if item.isdigit():  # a number among those that are there; without their files it names itself
            if there and int(item) >= len(there):
                break
            item = there[int(item)] if there else item
        names.append(item)
    return names, f"{variable}={environ[variable]}"


def _slurm_gpus(environ: Mapping[str, str]) -> int:
    """Returns how many GPUs Slurm gave the step on this machine."""
    text = environ.get("SLURM_GPUS_ON_NODE", "")
    return int(text) if text.isdigit() else 0


def _chosen(environ: Mapping[str, str]) -> list[int] | None:
    text = environ.get(LOCAL_IDS)
    if not text:
        return None
    items = text.split(",")
    if not all(item.strip().isdigit() for item in items):
        raise UserError(f"{LOCAL_IDS} is {text!r}: it must be numbers with commas between them, such as 0,1")
    return [int(item) for item in items]


def _counted(number: int, kind: str) -> str:
    return f"{number or 'no'} {kind}{'' if number == 1 else 's'}"


def from_json(values: Any) -> View:
    """Returns the view that was sent as `dataclasses.asdict`."""
    return View(**values)
