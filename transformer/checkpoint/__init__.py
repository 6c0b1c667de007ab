"""What a checkpoint is, saved and restored through Orbax.

`CHECKPOINTS/STEP/` holds separate checkpointables, so that weights restore without the optimizer:

    params/      the weights, and nothing else
    opt_state/   the optimizer's state and the counters
    data/        position.json: the step, which is the position in the data
    record/      architecture.json, experiment.json and tokenizer/: what a person needs to use the weights alone

A restore never rebuilds the mesh of the run that saved: it aims at abstract arrays with the shardings of today's mesh.
Nothing here executes or unpickles what a checkpoint holds.
"""

import contextlib
import dataclasses
import json
import logging
import math
import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
from etils import epath
from jax.sharding import Mesh

from transformer.errors import UserError
from transformer.models import Architecture, architecture_from_dict
from transformer.sharding import param_shardings, with_shardings

_BUFFER_BYTES, _CHUNK_BYTES = 2**28, 2**25


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When to save and what to keep."""

    every: int = 500
    """Updates between saves; the end of the run and an interruption always save."""
    keep: int = 2
    """The newest checkpoints to keep."""
    keep_best: int = 1
    """Checkpoints to keep besides, by the lowest evaluation loss."""

    def __post_init__(self) -> None:
        if self.every < 1 or self.keep < 1 or self.keep_best < 0:
            raise UserError(
                f"--checkpoint.every {self.every} and --checkpoint.keep {self.keep} must be at least 1, "
                f"--checkpoint.keep-best {self.keep_best} at least 0"
            )


class Files:
    """A checkpointable of small files: name, with slashes for folders -> content. The leading process writes them."""

    def __init__(self, files: Mapping[str, bytes] | None = None):
        self.files = dict(files or {})

    async def save(self, directory):
        async def write():
            folder = await directory.await_creation()
            for name, content in self.files.items() if jax.process_index() == 0 else ():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)

        return write()

    async def load(self, directory):
        async def read():
            for path in sorted(directory.glob("*")):
                if path.is_file():
                    self.files[path.name] = path.read_bytes()

        return read()


class Checkpoints:
    """The checkpoints of one run. A context manager: leaving it waits for the save under way."""

    def __init__(self, folder: epath.PathLike, config: CheckpointConfig | None = None):
        from orbax.checkpoint import v1 as ocp

        config = config or CheckpointConfig()
        policies = ocp.training.preservation_policies
        keep: list[Any] = [policies.LatestN(config.keep)]
        if config.keep_best:
            keep.append(
                policies.BestN(
                    get_metric_fn=lambda metrics: -metrics["eval_loss"],
                    n=config.keep_best,
                    keep_checkpoints_without_metrics=False,
                )
            )
        self.folder = epath.Path(folder).resolve()  # Orbax takes absolute paths alone
        self._orbax = ocp.training.Checkpointer(
            self.folder,
            preservation_policy=policies.AnyPreservationPolicy(keep),  # pyright: ignore[reportArgumentType]
            cleanup_tmp_directories=True,
        )
        self._response = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            # Closing raises again what the last save failed with, which has been said.
            with contextlib.suppress(Exception):
                self._orbax.close()

    @property
    def latest(self) -> int | None:
        """The newest complete checkpoint's step."""
        return self._orbax.latest.step if self._orbax.latest else None

    def save(
        self,
        step: int,
        *,
        params: Any,
        opt_state: Any,
        data: Mapping[str, Any],
        record: Mapping[str, bytes],
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Starts saving; returns once the arrays are copied from the devices. At most one save is under way.

        Args:
          step: the checkpoint's name.
          params: the weights' tree.
          opt_state: the tree of all other arrays.
          data: the position in the data, as JSON values.
          record: files of `record/`.
          metrics: `eval_loss`, if an evaluation was made at this step; what `keep_best` ranks by.

        Raises:
          UserError: this save, or the one before it, could not be written (a full disk).
        """
        try:
            self.wait()
            self._response = self._orbax.save_checkpointables_async(
                step,
                {
                    "params": params,
                    "opt_state": opt_state,
                    "data": Files({"position.json": json.dumps(dict(data)).encode()}),
                    "record": Files(record),
                },
                force=True,
                metrics=dict(metrics) if metrics else None,
            )
        except OSError as error:
            raise self._not_saved(error) from error

    def wait(self) -> None:
        """Returns when nothing is being saved any more; raises UserError if the last save could not be written."""
        if self._response is None:
            return
        response, self._response = self._response, None
        try:
            response.result()
        except Exception as error:
            raise self._not_saved(error) from error

    def restore(self, step: int, *, params: Any, opt_state: Any) -> tuple[Any, Any, dict[str, Any]]:
        """Returns (params, opt_state, data position) of `step`, laid out as the abstract trees say."""
        position = Files()
        with _reading(self.folder / str(step)):
            trees = self._orbax.load_checkpointables(step, {"params": params, "opt_state": opt_state, "data": position})
        return trees["params"], trees["opt_state"], json.loads(position.files["position.json"])

    def _not_saved(self, error: BaseException) -> UserError:
        return UserError(
            f"{self.folder}: the checkpoint could not be saved: {_root_cause(error)}. The one before it is whole: make "
            "room, then run the same command again"
        )


def find(path: epath.PathLike) -> epath.Path:
    """Returns the checkpoint that `path` names: a checkpoint itself, or the newest of a run.

    Raises:
      UserError: there is none.
    """
    path = epath.Path(path).expanduser().resolve()
    if (path / "record").exists():
        return path
    if not path.exists():
        raise UserError(f"{path}: no such run or checkpoint")
    folder = path / "checkpoints"
    steps = [int(entry.name) for entry in folder.iterdir() if entry.name.isdigit()] if folder.exists() else []
    if not steps:
        raise UserError(f"{path}: no checkpoint here (a run keeps them in {folder})")
    return folder / str(max(steps))


def read_architecture(checkpoint: epath.PathLike) -> Architecture:
    """Returns the architecture that lies beside a checkpoint's weights."""
    path = epath.Path(checkpoint) / "record" / "architecture.json"
    try:
        return architecture_from_dict(json.loads(path.read_text()))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file: the checkpoint is incomplete") from error
    except ValueError as error:
        raise UserError(f"{path}: not an architecture: {error}") from error


def save_params(checkpoint: epath.PathLike, params: Any, record: Mapping[str, bytes]) -> None:
    """Writes a checkpoint of weights alone: what was not trained here has no optimizer and no position in the data.

    Args:
      checkpoint: `CHECKPOINTS/STEP`, not yet there.
      params: the weights' tree, of jax arrays: Orbax would copy NumPy's, all at once.
      record: files of `record/`.

    Raises:
      UserError: it could not be written.
    """
    from orbax.checkpoint import v1 as ocp

    path = epath.Path(checkpoint).resolve()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _little_memory(params):
            ocp.save_checkpointables(path, {"params": params, "record": Files(record)})
    except Exception as error:
        raise UserError(f"{path}: the checkpoint could not be written: {_root_cause(error)}") from error


def restore_params(checkpoint: epath.PathLike, abstract: Any) -> Any:
    """Returns a checkpoint's weights, and reads nothing else.

    Args:
      checkpoint: `CHECKPOINTS/STEP`.
      abstract: the tree of ShapeDtypeStructs with today's shardings.
    """
    from orbax.checkpoint import v1 as ocp

    with _reading(epath.Path(checkpoint)), _little_memory(abstract):
        return ocp.load_checkpointables(epath.Path(checkpoint), {"params": abstract})["params"]


def restore_model(checkpoint: epath.PathLike, mesh: Mesh) -> tuple[Architecture, Any]:
    """Returns a checkpoint's architecture and its weights, laid out on today's mesh."""
    architecture = read_architecture(checkpoint)
    boxed = architecture.abstract_params()
    abstract = with_shardings(nn.meta.unbox(boxed), param_shardings(boxed, mesh))
    return architecture, restore_params(checkpoint, abstract)


def to_json(record: Mapping[str, Any]) -> bytes:
    """Returns a record as people and `diff` like to read it."""
    return (json.dumps(record, indent=2) + "\n").encode()


def _little_memory(params: Any) -> Any:
    """Returns Orbax's context for weights alone: what is on its way to or from the disk is little beside them."""
    from orbax.checkpoint import v1 as ocp

    largest = max(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    limit = max(_BUFFER_BYTES, largest) + 1  # Orbax wants more room than it fills
    context = ocp.Context()
    context.array.saving.storage_options.chunk_byte_size = _CHUNK_BYTES
    context.memory.read_concurrent_bytes = limit
    context.memory.write_concurrent_bytes = limit
    context.memory.transfer_concurrent_bytes = limit
    return context


@contextlib.contextmanager
def _reading(path: epath.Path) -> Iterator[None]:
    """Turns what Orbax raises into one line.

    Orbax gives up at the first bad read and closes its event loop, and then each of its other reads prints a traceback
    when it ends. These are hushed, from before the reads begin; after a failure for good, for they end any time later.
    """
    log, report = logging.getLogger("asyncio"), sys.unraisablehook
    level = log.level

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            report(unraisable)

    log.setLevel(logging.CRITICAL)
    sys.unraisablehook = hook
    try:
        yield
    except Exception as error:
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        raise UserError(f"{path}: the checkpoint could not be restored: {_root_cause(error)}") from error
    log.setLevel(level)
    sys.unraisablehook = report


def _root_cause(error: BaseException) -> str:
    """Orbax wraps what went wrong; the innermost cause is the message that helps."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, BaseExceptionGroup):
        return _root_cause(error.exceptions[0])
    # TensorStore appends the whole specification of what it tried to open.
    words = str(error).partition("[tensorstore_spec")[0].split()
    return " ".join(words) or type(error).__name__
