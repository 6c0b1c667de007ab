"""The local checkpoints of one run on one disk: written whole, listed, removed. Knows no other process.

`LOCAL_DIR/RUN/process-INDEX-of-COUNT/STEP/` holds what one process's devices hold:

    params/, opt_state/     their parts of the arrays (`shards`)
    manifest.json           which start, step and mesh they are of, what they are parts of, and all hashes

It is written as `STEP.partial`, and renamed: whatever has a step for its name is whole. What the power takes from the
disk's cache afterwards, the hashes tell.
"""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import xxhash

from transformer.checkpoint import shards
from transformer.checkpoint.files import to_json
from transformer.checkpoint.lineage import Lineage

TREES = ("params", "opt_state")
_MANIFEST, _PARTIAL, _REMOVED = "manifest.json", ".partial", ".removed"

Manifest = dict[str, Any]


def manifest_of(trees: Mapping[str, Any], architecture: Mapping[str, Any]) -> Manifest:
    """Returns what a checkpoint of trees, real or abstract, says of them; what was written must say the same."""
    described = {name: shards.described(tree) for name, tree in trees.items()}
    return {"architecture": dict(architecture), "mesh": _mesh(trees["params"]), **described}


class LocalFolder:
    """What one process has on its disk of a run's local checkpoints.

    Args:
      folder: LOCAL_DIR/RUN.
      index: the process's index.
      count: number of processes.
    """

    def __init__(self, folder: Path, index: int, count: int):
        self._folder, self._count = folder, count
        self._own = folder / f"process-{index}-of-{count}"

    def usable(self, after: int, lineage: Lineage, wanted: Manifest) -> tuple[dict[int, Manifest], dict[int, str]]:
        """Returns the manifests, by step, of the checkpoints that can be restored; and why others cannot.

        Args:
          after: a step; older checkpoints, and one of that step, are in neither.
          lineage: tells which are the run's own; others are in neither.
          wanted: as `manifest_of` describes today's state.
        """
        manifests, reasons = {}, {}
        for folder in [self._own, *self._of_other_counts()]:
            for step in [step for step in _steps(folder) if step > after and step not in manifests]:
                manifest = _manifest(folder / str(step))
                if manifest is None:
                    reasons[step] = "its manifest is damaged"
                elif not lineage.holds(manifest["start"], step) or manifest["step"] != step:
                    continue
                elif folder != self._own:
                    reasons[step] = f"it is of {_count(folder)} process{'es' if _count(folder) != '1' else ''}"
                elif manifest["architecture"] != wanted["architecture"]:
                    reasons[step] = "it is of another architecture"
                elif manifest["mesh"] != wanted["mesh"] or not _same_parts(manifest, wanted):
                    reasons[step] = "it is of another mesh"
                else:
                    manifests[step] = manifest
        return manifests, reasons

    def write(self, manifest: Manifest, parts: Mapping[str, Any]) -> int:
        """Writes a checkpoint, or leaves nothing of it; returns its bytes.

        Args:
          manifest: of `manifest_of`, with `step` and `start`; gets the hashes.
          parts: tree -> `shards.copied` of it.

        Raises:
          OSError: it could not be written.
        """
        path = self._own / str(manifest["step"])
        partial = path.with_name(f"{path.name}{_PARTIAL}")
        for leftover in (path, partial):
            _remove(leftover)
        try:
            partial.mkdir(parents=True)
            size = sum(shards.write(partial, name, manifest[name], parts[name]) for name in TREES)
            (partial / _MANIFEST).write_bytes(to_json({"hash": _hash(manifest), "manifest": manifest}))
            partial.rename(path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        return size

    def read(self, manifest: Manifest, abstract: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the trees of one of the `usable`, once they are on the devices.

        Raises:
          OtherContent, OSError: a file is not what was written, or cannot be read.
        """
        path = self._own / str(manifest["step"])
        return jax.block_until_ready({name: shards.read(path, name, manifest[name], abstract[name]) for name in TREES})

    def remove(self, chosen: Callable[[int], bool]) -> None:
        """Removes checkpoints by their steps; raises nothing: what cannot be removed now, the next start sweeps."""
        for step in filter(chosen, _steps(self._own)):
            _remove(self._own / str(step))

    def sweep(self, lineage: Lineage) -> None:
        """Removes what earlier starts of this run left on this disk and counts no more; raises nothing."""
        with contextlib.suppress(OSError):
            for folder in list(self._folder.glob("process-*-of-*")):
                for step in _steps(folder):
                    manifest = _manifest(folder / str(step))
                    if manifest is None or not lineage.holds(manifest["start"], step):
                        _remove(folder / str(step))
                if folder == self._own or _count(folder) != str(self._count):  # else another process writes there
                    for left in [path for path in folder.iterdir() if not path.name.isdigit()]:
                        shutil.rmtree(left, ignore_errors=True)
                if _count(folder) != str(self._count):
                    with contextlib.suppress(OSError):
                        folder.rmdir()

    def close(self) -> None:
        """Removes the folders themselves where nothing is left in them."""
        for folder in (self._own, self._folder):
            with contextlib.suppress(OSError):
                folder.rmdir()

    def _of_other_counts(self) -> Iterator[Path]:
        return (folder for folder in self._folder.glob("process-*-of-*") if _count(folder) != str(self._count))


def _count(folder: Path) -> str:
    return folder.name.rpartition("-")[2]


def _steps(folder: Path) -> list[int]:
    with contextlib.suppress(OSError):
        return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())
    return []


def _remove(checkpoint: Path) -> None:
    """Removes a checkpoint, out of sight first: a kill leaves none that is half there. Raises nothing."""
    hidden = checkpoint.with_name(f"{checkpoint.name}{_REMOVED}")
    shutil.rmtree(hidden, ignore_errors=True)
    with contextlib.suppress(OSError):
        checkpoint.rename(hidden)
        shutil.rmtree(hidden, ignore_errors=True)


def _manifest(checkpoint: Path) -> Manifest | None:
    """Returns a checkpoint's manifest; None: it is not what was written."""
    try:
        record = json.loads((checkpoint / _MANIFEST).read_bytes())
        return record["manifest"] if record["hash"] == _hash(record["manifest"]) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _hash(manifest: Manifest) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(manifest, sort_keys=True).encode())


def _same_parts(written: Manifest, wanted: Manifest) -> bool:
    return all(shards.same_parts(written[name], wanted[name]) for name in TREES)


def _mesh(tree: Any) -> dict[str, int]:
    """Returns the axes of the mesh that a tree lies on; none of a single device without a mesh."""
    mesh = getattr(jax.tree.leaves(tree)[0].sharding, "mesh", None)
    return {} if mesh is None else {axis: int(size) for axis, size in mesh.shape.items()}
