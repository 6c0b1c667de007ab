"""Checkpoints read back: found, checked, and laid out on today's mesh.

A restore never rebuilds the mesh of the run that saved: it aims at abstract arrays with the shardings of today's mesh.
Nothing here executes or unpickles what a checkpoint holds.
"""

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jax
from etils import epath

from transformer.checkpoint.digest import DigestRecord, differing, prepare_differing
from transformer.checkpoint.halting import first_failure, release_others, was_released
from transformer.checkpoint.orbax_patches import next_operation, pieces_kept, quiet_reads
from transformer.checkpoint.seal import is_local, seal_problems, strays
from transformer.cluster.agreement import alone, attributed, exchange, own_index
from transformer.errors import UserError
from transformer.models import Architecture, architecture_from_dict

T = TypeVar("T")

_BUFFER_BYTES, _CHUNK_BYTES = 2**28, 2**25
_HASHED_BYTES = 2**20
"""Files up to here are hashed before a restore. Of larger ones, which are arrays, the values are checked after it."""


class Damaged(UserError):
    """A checkpoint that is not what was written."""


def find(path: epath.PathLike) -> epath.Path:
    """Returns the checkpoint that `path` names: a checkpoint itself, or the newest of a run.

    Raises:
      UserError: there is none.
    """
    if not os.fspath(path):
        raise UserError("a path is empty: name a run folder, or one of its checkpoints")
    path = absolute(path)
    if (path / "record").exists():
        return path
    if not path.exists():
        raise UserError(f"{path}: no such run or checkpoint")
    folder = path / "checkpoints"
    complete = steps(folder)
    if not complete:
        raise UserError(f"{path}: no checkpoint here (a run keeps them in {folder})")
    return folder / str(complete[-1])


def steps(folder: epath.Path) -> list[int]:
    """Returns the steps of a run's complete checkpoints, ascending.

    A local one gets its name when it is complete; in an object store, which cannot rename a folder, a file says so.
    """
    if not folder.exists():
        return []
    if is_local(folder) and not folder.is_dir():
        raise UserError(f"{folder} is a file, and a run keeps its checkpoints in a folder of that name: move it away")
    named = [entry for entry in folder.iterdir() if entry.name.isdigit()]
    if not is_local(folder):
        named = [entry for entry in named if (entry / "commit_success.txt").exists()]
    return sorted(int(entry.name) for entry in named)


def absolute(path: epath.PathLike) -> epath.Path:
    """Returns the path in full, as Orbax wants it; one of an object store is so already."""
    path = epath.Path(path)
    return path.expanduser().resolve() if is_local(path) else reachable(path)


def reachable(path: epath.Path) -> epath.Path:
    """Returns a path, of which it is known that its store can be asked.

    Raises:
      UserError: it cannot: a package is not installed, there is no such store, or it lets nobody in.
    """
    try:
        path.exists()
    except Exception as error:  # each store's client has its own
        extra = " (pip install -e '.[gcs]' or '.[s3]')" if isinstance(error, ImportError) else ""
        raise UserError(f"{path} cannot be reached: {root_cause(error)}{extra}") from error
    return path


def read_architecture(checkpoint: epath.PathLike) -> Architecture:
    """Returns the architecture that lies beside a checkpoint's weights."""
    path = epath.Path(checkpoint) / "record" / "architecture.json"
    try:
        return architecture_from_dict(json.loads(path.read_text()))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file: the checkpoint is incomplete") from error
    except ValueError as error:
        raise UserError(f"{path}: not an architecture: {error}") from error


def load(checkpoint: epath.PathLike, abstract: Mapping[str, Any]) -> dict[str, Any]:
    """Returns trees of a checkpoint, and reads no others; what is read is known to be what was written.

    Of several processes all must call it, and what one of them finds damaged all raise. Only the leading one looks at
    the files: they lie where all see them, or Orbax could not have written them.

    Args:
      checkpoint: `CHECKPOINTS/STEP`.
      abstract: checkpointable -> its tree of ShapeDtypeStructs with today's shardings, or `Files`.

    Raises:
      Damaged: a file is missing, shorter, or another; a value is not the one that was saved.
    """
    path = epath.Path(checkpoint)
    recorded = _agreed(path, lambda: _checked(path) if own_index() == 0 else {})
    with ThreadPoolExecutor(1, thread_name_prefix="digests") as worker:  # beside the reading, which waits for files
        for name in abstract.keys() & recorded.keys():
            worker.submit(prepare_differing, abstract[name], recorded[name])
        trees = _agreed(path, lambda: _load(path, abstract), exchanged=False)
    wrong = [
        f"{name}/{leaf}" for name, tree in trees.items() if name in recorded for leaf in differing(tree, recorded[name])
    ]
    if wrong:
        raise Damaged(f"{path}: damaged: the values of {_some(wrong)} are not those that were saved")
    return trees


def _checked(path: epath.Path) -> dict[str, DigestRecord]:
    """Returns the recorded digests of a checkpoint whose files are all right."""
    check(path)
    return digests(path)


def _load(path: epath.Path, abstract: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what Orbax loads; as it comes, from this host's point of view."""
    from orbax.checkpoint import v1 as ocp

    operation = next_operation()
    try:
        with reading_errors(path), pieces_kept(max(_BUFFER_BYTES, _largest(abstract))):
            return ocp.load_checkpointables(path, dict(abstract))
    except Damaged:
        release_others(operation)
        raise


def _agreed(path: epath.Path, action: Callable[[], T], *, exchanged: bool = True) -> T:
    """Returns what `action()` returned on the leading process or, if it is not to be exchanged, on this one.

    Raises:
      Damaged: on all processes, what it raised on one of them.
    """
    value, failure = None, None
    try:
        value = action()
    except Exception as error:
        if alone():
            raise
        message = str(error) if isinstance(error, UserError) else f"{path}: {root_cause(error)}"
        failure = {"message": message, "follows": was_released(error)}
    answers = exchange("reading a checkpoint", {"value": value if exchanged else None, "failure": failure})
    if failed := first_failure([answer["failure"] for answer in answers]):
        index, first = failed
        raise Damaged(attributed(first["message"], index))
    return answers[0]["value"] if exchanged else value  # type: ignore[return-value]


def check(path: epath.Path) -> None:
    """Raises Damaged if a file of a checkpoint is missing, lies elsewhere, has another size or, up to a size, another
    content. Looks from this host alone; `load` asks the leading one.
    """
    if lines := strays(path) or seal_problems(path, up_to=_HASHED_BYTES):
        raise Damaged(f"{path}: damaged: {_some(lines, between='; ')}")


def digests(path: epath.Path) -> dict[str, DigestRecord]:
    """Returns the recorded digests of a checkpoint's trees; none of one that was written without."""
    try:
        return json.loads((path / "record" / "digests.json").read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise Damaged(f"{path}: damaged: record/digests.json: {error}") from error


def restore_params(checkpoint: epath.PathLike, abstract: Any, *, partial: bool = False) -> Any:
    """Returns a checkpoint's weights, and reads nothing else.

    Args:
      checkpoint: `CHECKPOINTS/STEP`.
      abstract: the tree of ShapeDtypeStructs with today's shardings.
      partial: the tree may lack leaves; these are not read.

    Raises:
      UserError: it cannot be read; Damaged: it is not what was written.
    """
    context = little_memory(abstract)
    context.pytree.loading.partial_load = partial
    with context:
        return load(checkpoint, {"params": abstract})["params"]


def plain_context() -> Any:
    """Returns Orbax's context for arrays as they are: Zstandard would make a save a third longer for 8 % of size."""
    from orbax.checkpoint import v1 as ocp

    context = ocp.Context()
    context.array.saving.use_compression = False
    return context


def little_memory(params: Any) -> Any:
    """Returns Orbax's context for weights alone: what is on its way to or from the disk is little beside them."""
    limit = max(_BUFFER_BYTES, _largest(params)) + 1  # Orbax wants more room than it fills
    context = plain_context()
    context.array.saving.storage_options.chunk_byte_size = _CHUNK_BYTES
    context.memory.read_concurrent_bytes = limit
    context.memory.write_concurrent_bytes = limit
    context.memory.transfer_concurrent_bytes = limit
    return context


def _largest(tree: Any) -> int:
    """Returns the bytes of the largest of a tree's arrays, real or abstract; other leaves have none."""
    arrays = [leaf for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype")]
    return max((math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in arrays), default=0)


def root_cause(error: BaseException) -> str:
    """Orbax wraps what went wrong; the innermost cause is the message that helps."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, BaseExceptionGroup):
        return root_cause(error.exceptions[0])
    # TensorStore appends the whole specification of what it tried to open.
    words = str(error).partition("[tensorstore_spec")[0].split()
    return " ".join(words) or type(error).__name__


def _some(lines: list[str], between: str = ", ") -> str:
    more = f" and {len(lines) - 3} more" if len(lines) > 3 else ""
    return between.join(lines[:3]) + more


@contextlib.contextmanager
def reading_errors(path: epath.Path) -> Iterator[None]:
    """Turns what Orbax raises into one line."""
    try:
        with quiet_reads():
            yield
    except Exception as error:
        raise Damaged(f"{path}: the checkpoint could not be restored: {root_cause(error)}") from error
