"""The checkpoints of one run: saved in the background, kept or removed by rule.

`CHECKPOINTS/STEP/` holds separate checkpointables, so that weights restore without the optimizer:

    params/      the weights, and nothing else
    opt_state/   the optimizer's state and the counters
    data/        position.json: the step, which is the position in the data; metrics.json: of an evaluation there
    record/      architecture.json, experiment.json and tokenizer/: what a person needs to use the weights alone;
                 digests.json: of the arrays' values
    seal.json    the sizes and hashes of all these

Whatever has a step for its name is complete: it is written under another name, and renamed (in an object store, which
cannot rename, `commit_success.txt` comes last). Removing goes the same way back. So a kill at any instant leaves the
checkpoints before it whole.
"""

import collections
import dataclasses
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
from etils import epath

from transformer.checkpoint.config import CheckpointConfig
from transformer.checkpoint.digest import digest_record, prepare_digests, start_digests
from transformer.checkpoint.files import Files, to_json
from transformer.checkpoint.halting import (
    PATIENCE,
    Failure,
    first_failure,
    release_others,
    wait_until_still,
    was_released,
)
from transformer.checkpoint.keeping import Keeping
from transformer.checkpoint.orbax_patches import next_operation, quiet_writes
from transformer.checkpoint.prune import discard, remove, sweep
from transformer.checkpoint.reading import absolute, little_memory, load, plain_context, root_cause, steps
from transformer.checkpoint.saved import Saved, next_outcome
from transformer.checkpoint.seal import entries, is_local, seal, sealed_files, write_seal, writer
from transformer.cluster.agreement import attributed, exchange, from_lead, own_index, together_do
from transformer.errors import UserError


class Checkpoints:
    """The checkpoints of one run. A context manager: leaving it waits for the saves under way.

    Of several processes all must save the same steps, and all get the same outcome: what fails on one is agreed on
    in the background before any acts on it. No failure of a save is raised.
    """

    def __init__(self, folder: epath.PathLike, config: CheckpointConfig | None = None):
        from orbax.checkpoint import v1 as ocp

        self._ocp = ocp  # imported before the first save: it takes a second
        self.folder = absolute(folder)
        self._keeping = Keeping(self.folder, config or CheckpointConfig())
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._saving: collections.deque[Future[Saved]] = collections.deque()
        self._written = threading.Event()  # what the newest save under way writes is written, or has failed
        self._written.set()
        quiet_writes()
        if own_index() == 0:
            sweep(self.folder)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exc: object) -> None:
        self._worker.shutdown()

    @property
    def steps(self) -> list[int]:
        """The complete checkpoints' steps, ascending."""
        return steps(self.folder)

    def prepare(self, *, params: Any, opt_state: Any) -> None:
        """Compiles in the background what a save of such trees needs, so that the first one need not wait for it."""
        self._worker.submit(lambda: [prepare_digests(tree) for tree in (params, opt_state)])

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
        """Starts saving; returns once the arrays are copied from the devices. `outcome` tells how it went.

        Waits for the save before to be written. It may still be sealed meanwhile: its files are read back for that.

        Args:
          step: the checkpoint's name.
          params: the weights' tree.
          opt_state: the tree of all other arrays.
          data: the position in the data, as JSON values.
          record: files of `record/`.
          metrics: of an evaluation at this step, if there was one; what `keep_best` ranks by.
        """
        self._written.wait()
        began = time.perf_counter()
        trees = {"params": params, "opt_state": opt_state}
        files = {"position.json": to_json(data)} | ({"metrics.json": to_json(metrics)} if metrics else {})
        response, error, operation = None, None, next_operation()
        path = self.folder / str(step)
        existed = own_index() == 0 and path.exists()
        try:
            with _background_context():
                response = self._ocp.save_checkpointables_async(
                    path, {**trees, "data": Files(files), "record": _with_digests(record, trees)}
                )
        except Exception as failed:  # whatever it is, the training need not end for it
            error = failed
        self._written = threading.Event()
        save = _Save(step, operation, existed, began, time.perf_counter() - began, self._written)
        self._saving.append(self._worker.submit(self._complete, save, response, error))

    def outcome(self, *, wait: bool = False) -> Saved | None:
        """Returns how the oldest save ended that was not asked for yet; None if it has not ended, or there is none.

        Processes of one job get the same outcomes, in the same order, but without `wait` not at the same time.
        """
        return next_outcome(self._saving, wait=wait)

    def restore(self, step: int, *, params: Any, opt_state: Any) -> tuple[Any, Any, bool]:
        """Returns params and opt_state of `step`, laid out as the abstract trees say; and whether it was evaluated.

        Raises:
          Damaged: it is not what was saved.
        """
        data = Files()
        trees = load(self.folder / str(step), {"params": params, "opt_state": opt_state, "data": data})
        return trees["params"], trees["opt_state"], "metrics.json" in data.files

    def set_aside(self, step: int) -> epath.Path:
        """Renames a checkpoint, so that it counts no more and can still be looked at; returns where it lies then.

        The leading process of several does it; the others are told the same.
        """

        def rename() -> str:
            number = 1
            while (aside := self.folder / f"{step}.damaged-{number}").exists():
                number += 1
            return str((self.folder / str(step)).rename(aside))

        name = together_do("setting a checkpoint aside", rename if own_index() == 0 else str)
        return epath.Path(from_lead("the checkpoint set aside", name))

    def _complete(self, save: "_Save", response: Any, error: BaseException | None) -> Saved:
        """Waits for Orbax, seals, removes what is to be kept no longer. In the background; raises nothing."""
        try:
            failure = self._await(save, response, error)
        except Exception as lost:  # the other processes do not answer: they say why, or are gone
            failure = root_cause(lost)
        finally:
            save.written.set()
        if failure is None:
            try:
                return self._seal(save)
            except Exception as lost:
                failure = root_cause(lost)
        return Saved(save.step, save.blocked, failure=failure)

    def _await(self, save: "_Save", response: Any, error: BaseException | None) -> str | None:
        """Returns why a save failed, the same on all processes, once nothing of it is left; or None: it is written."""
        if response is not None:
            try:
                response.result()
            except BaseException as failed:  # asyncio's cancellation is no Exception
                error = failed
        own = None
        if error is not None:
            release_others(save.operation)
            wait_until_still()
            own = {"message": root_cause(error), "follows": was_released(error)}
        failure = _first(exchange("the end of a save", own, deadline=PATIENCE + 600))
        if failure is not None and own_index() == 0:
            if not save.existed:
                discard(self.folder / str(save.step))
            sweep(self.folder)
        return failure

    def _seal(self, save: "_Save") -> Saved:
        """Seals a checkpoint, each process what it wrote, and prunes; returns what the leading one says of it."""
        path = self.folder / str(save.step)
        own, sealed = None, {}
        try:
            if is_local(path) or own_index() == 0:
                count = jax.process_count() if is_local(path) else 1
                sealed = entries(path, [name for name in sealed_files(path) if writer(name, count) == own_index()])
        except Exception as error:
            own = {"message": root_cause(error), "follows": False}
        answers = exchange("the hashes of a checkpoint", {"sealed": sealed, "failure": own})
        failure, size, warning = _first([answer["failure"] for answer in answers]), 0, None
        if own_index() == 0:
            try:
                if failure is None:
                    size = write_seal(path, {k: v for answer in answers for k, v in answer["sealed"].items()})
            except Exception as error:
                failure = _first([{"message": root_cause(error), "follows": False}])
            if failure is None:
                warning = self._prune(save.step)
            else:
                discard(path)
        result = from_lead("the seal of a checkpoint", {"size": size, "failure": failure, "warning": warning})
        return Saved(save.step, save.blocked, time.perf_counter() - save.began, **result)

    def _prune(self, newest: int) -> str | None:
        """Removes what is to be kept no longer, of the checkpoints up to `newest`; returns what went wrong, if so."""
        warning = None
        try:
            for step in self._keeping.superfluous([step for step in self.steps if step <= newest]):
                warning = f"step {step} could not be removed"
                remove(self.folder / str(step))
        except Exception as error:
            return f"{warning or 'no other could be removed'}: {root_cause(error)}"
        return None


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

    path = absolute(checkpoint)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with little_memory(params):
            ocp.save_checkpointables(path, {"params": params, "record": _with_digests(record, {"params": params})})
        seal(path)
    except Exception as error:
        raise UserError(f"{path}: the checkpoint could not be written: {root_cause(error)}") from error


@dataclasses.dataclass(frozen=True)
class _Save:
    """A save under way."""

    step: int
    operation: int
    """Orbax's number of it."""
    existed: bool
    """Whether there was a checkpoint of this name before: then the save fails, and it is not to be removed."""
    began: float
    blocked: float
    written: threading.Event
    """Set once Orbax has done with it, and what a failure left is removed."""


def _background_context() -> Any:
    """Returns Orbax's context for a save in the background.

    The folders are made before it returns: if that fails, no thread on any process waits for them.
    """
    context = plain_context()
    context.asynchronous.timeout_secs = PATIENCE
    context.asynchronous.create_directories_asynchronously = False
    return context


def _first(failures: list[Failure | None]) -> str | None:
    """Returns why a save failed, if it did, for people."""
    if not (failed := first_failure(failures)):
        return None
    index, failure = failed
    return attributed(failure["message"], index)


def _with_digests(record: Mapping[str, bytes], trees: Mapping[str, Any]) -> Files:
    """Returns the record's files and that of the digests, which are computed meanwhile and fetched when it is written.

    Only shapes are held until then: the arrays themselves are the next step's to overwrite.
    """
    digests = {name: start_digests(tree) for name, tree in trees.items()}
    shapes = {
        name: jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)
        for name, tree in trees.items()
    }

    def content() -> bytes:
        return to_json({name: digest_record(shapes[name], digests[name]) for name in trees})

    return Files({**record, "digests.json": content})
