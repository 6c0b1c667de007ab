"""Capsules: records of spiking steps, which people can read and `tools/replay.py` can run again.

A capsule is `RUN/spikes/STEP.json`, strict JSON; a number that is not finite is the string "nan", "inf" or "-inf".
Nothing is computed before a step spikes, and no error here stops the training.
"""

import collections
import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from transformer.checkpoint import reading, to_json, write_atomically
from transformer.cluster.agreement import alone, own_index, together_do
from transformer.cluster.deadlines import allowing
from transformer.data import pipeline
from transformer.debugging.spike import Spike, SpikeDetector
from transformer.params import Names, flatten, layer_axes
from transformer.training import experiment as experiments
from transformer.training.frozen import Frozen
from transformer.training.run import Run
from transformer.training.session import Session
from transformer.training.state import Batch, TrainState, step_key

MOST = 16
"""Most capsules that one start of a run writes."""
BEFORE = 8
"""Number of steps before the spike whose loss and gradient norm are kept: a bad update shows one step later."""


class _OfAll(RuntimeError):
    """An error in a computation of all processes, which no process may pass over."""


class Capsules:
    """Watches the steps of a run, and writes a capsule for each that spikes.

    Args:
      run: the run, whose folder gets the capsules. The leading process writes; all compute, and see the same numbers.
      session: the run's session.
      report: called with a line for each capsule.
    """

    def __init__(self, run: Run, session: Session, report: Callable[[str], None]):
        self._run, self._session, self._report, self._written = run, session, report, 0
        self._compute: Callable[..., dict[str, Any]] | None = None  # compiled for the first spike
        self._detector = SpikeDetector()
        self._before: collections.deque[dict[str, Any]] = collections.deque(maxlen=BEFORE)

    def check(self, step: int, values: Mapping[str, float], state: TrainState) -> bool:
        """Checks update number `step`; returns whether that took time, which the throughput must not count.

        Args:
          step: the update's number, 1 for the first.
          values: its `loss` and `grad_norm`.
          state: the newest state, a step later, since metrics are fetched one step behind.
        """
        loss, grad_norm = values["loss"], values["grad_norm"]
        spike = self._detector.check(step, loss, grad_norm)
        before = list(self._before)
        self._before.append({"step": step, "loss": loss, "grad_norm": grad_norm})
        if spike is None:
            return False
        self._written += 1
        if self._written > MOST:
            if self._written == MOST + 1:
                line = f"step {step}: {spike.kind}; {MOST} such steps are written down, this and later ones are not"
                self._report(line)
            return False
        try:
            with allowing("compile"):  # what it computes is compiled for the first spike
                computed = self._computed(spike, state)
            if own_index() == 0:
                self._write(spike, before, state, computed)
        except _OfAll:
            raise
        except Exception as error:  # a full disk, no memory for the gradients, a store that is not there
            self._report(f"step {step}: {spike.kind}, which could not be written down: {' '.join(str(error).split())}")
        return True

    def _computed(self, spike: Spike, state: TrainState) -> dict[str, Any]:
        """Returns the result of `make_compute`'s function, on every process.

        Processes first agree on the steps at which one alone can fail, then compute together.
        """
        compute, batch = together_do("the batch of a step that spiked", lambda: self._prepared(spike.step, state))
        try:
            return jax.device_get(compute(state.params, spike.step - 1, batch, self._session.frozen))
        except Exception as error:
            if alone():
                raise
            raise _OfAll(str(error)) from error  # the others wait for this process in it

    def _prepared(self, step: int, state: TrainState) -> tuple[Callable[..., dict[str, Any]], Batch]:
        """Returns the compiled function, and the batch of update number `step`."""
        batch = self._session.batch(step)
        compute = self._compute
        if compute is None:
            jitted = make_compute(self._session)
            compute = self._compute = jitted.lower(state.params, step - 1, batch, self._session.frozen).compile()
        return compute, batch

    def _write(self, spike: Spike, before: list[dict[str, Any]], state: TrainState, computed: dict[str, Any]) -> None:
        saved = [step for step in reading.steps(self._run.checkpoints) if step < spike.step]
        session, experiment = self._session, self._session.experiment
        mesh = dataclasses.replace(experiment.mesh, **session.mesh.shape)  # as it was, whatever devices there are
        record = {
            **dataclasses.asdict(spike),
            "before": before,
            "checkpoint": f"checkpoints/{saved[-1]}" if saved else None,
            "seed": experiment.train.seed,
            "samples": samples_of(session, spike.step),
            "norms_at_step": int(state.step),
            **computed,
            "corpus": session.dataset.fingerprint,
            "experiment": experiments.to_dict(dataclasses.replace(experiment, mesh=mesh)),
        }
        self._run.spikes.mkdir(parents=True, exist_ok=True)
        path = self._run.spikes / f"{spike.step}.json"
        write_atomically(path, to_json(strict(record)))
        usual = "" if spike.bound is None else f" (usual: up to {spike.bound:.4g})"
        self._report(
            f"step {spike.step}: {spike.kind}, loss {spike.loss:.4g}{usual}, gradient norm {spike.grad_norm:.4g}: "
            f"{path}. To look at it: python tools/replay.py {self._run.folder} {spike.step}"
        )


def samples_of(session: Session, step: int) -> list[dict[str, Any]]:
    """Returns, for each row of update number `step`, its place in the sample stream and its record.

    A sample's `corpus` is an index into the experiment's mixture, 0 where it has none; `skipped` says whether the run
    leaves it out.
    """
    train, dataset = session.experiment.train, session.dataset
    origins: Any = pipeline.origins(dataset.train, dataset.weights, seed=train.seed, batch_size=train.batch_size)
    places = range((step - 1) * train.batch_size, step * train.batch_size)
    skipped = frozenset(train.skip_samples)
    return [{"place": place, **origins[place]._asdict(), "skipped": place in skipped} for place in places]


def make_compute(session: Session) -> Any:
    """Returns a jitted function (params, updates before, batch, frozen) -> `key`, `parameter_norms`, `gradient_norms`.

    `frozen` are the program's frozen arrays. The results are the key's data, uint32, and dicts from a parameter's path
    to its Frobenius norm, or to its layers' norms. The gradients are computed as in the batch's step, with its dropout
    and its microbatches. All processes must call it, in one place.
    """
    experiment, program = session.experiment, session.program
    replicated = NamedSharding(session.mesh, PartitionSpec())

    def compute(params: Any, updates: jax.Array, batch: Batch, frozen: Frozen) -> dict[str, Any]:
        _, _, grads = program.gradients(TrainState(updates, params, None, None), batch, frozen)
        both = {"parameter_norms": params, "gradient_norms": grads}
        norms = {name: norms_by_layer(tree, program.names) for name, tree in both.items()}
        key = jax.random.key_data(step_key(experiment.train.seed, updates))
        return {"key": key} | {name: flatten(tree) for name, tree in norms.items()}

    return jax.jit(compute, out_shardings=replicated)


def norms_by_layer(tree: Any, names: Any) -> Any:
    """Returns the tree of norms, float32: [N] for a leaf whose first axis is named "layers", [] for others."""

    def norm(leaf: jax.Array, axes: Names) -> jax.Array:
        inside = tuple(axis for axis in range(leaf.ndim) if axis not in layer_axes(axes))
        return jnp.sqrt(jnp.sum(jnp.square(leaf.astype(jnp.float32)), axis=inside))

    return jax.tree.map(norm, tree, names)


def strict(value: Any) -> Any:
    """Returns a tree of arrays and plain values as strict JSON, numbers that are not finite as "nan", "inf", "-inf"."""
    if isinstance(value, Mapping):
        return {name: strict(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return strict(value.tolist())
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
