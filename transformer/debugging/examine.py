"""Examination of one update: where its numbers stop being finite, and how large they are.

The model runs forward as in the update, with the same dropout and the same microbatches, and for every module's output
its largest magnitude and its number of values that are not finite are kept; under a scan, for every layer.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from transformer.layers.low_rank import adapter_dropout
from transformer.ops.elementwise import numbered
from transformer.parallel.context import balanced
from transformer.params import flatten, is_names, layer_axes, modules_of, param_names
from transformer.training.experiment import Experiment
from transformer.training.frozen import Frozen
from transformer.training.session import Session
from transformer.training.state import Batch, TrainState, step_key

_SOWN = "examined by "
"""Prefix of the names (of methods) under which the interceptor stores into the collection "intermediates"."""


class Entry(NamedTuple):
    """One array of an update; of stacked layers, one layer's part of it."""

    name: str
    """A parameter's path, a module's, or a metric's name."""
    layer: int | None
    """The layer's number, from 0; None where layers are not stacked."""
    largest: float
    """The largest magnitude among its finite values."""
    bad: int
    """Number of values that are NaN or infinite."""
    values: int
    """Number of values."""


@dataclasses.dataclass(frozen=True)
class Examination:
    """An update, in the order of its computation."""

    parameters: list[Entry]
    """Parameters before the update, in the order of the forward pass."""
    forward: list[Entry]
    """Modules' outputs, each module after those inside it; with accumulation, over all microbatches."""
    loss: list[Entry]
    """The mean loss, and the objective's metrics."""
    gradients: list[Entry]
    """Gradients of the mean loss, in the order of the backward pass."""

    def first_bad(self) -> tuple[str, Entry] | None:
        """Returns the part and the entry where the first value that is not finite arises; None if all are finite."""
        parts = {"parameters": self.parameters, "forward": self.forward, "loss": self.loss, "gradients": self.gradients}
        return next(((part, entry) for part, entries in parts.items() for entry in entries if entry.bad), None)


class _Stats(NamedTuple):
    """Figures of an array, float32: [] or, for stacked layers, [N]. Counts above 2^24 are rounded."""

    largest: Any
    bad: Any
    values: Any


class _Output(NamedTuple):
    """Figures of a module's output."""

    serial: Any
    """int32: serial number of the call. Where a body is traced twice, the second trace comes after the first."""
    stats: _Stats


def examine(session: Session, state: TrainState, batch: Batch) -> Examination:
    """Returns the examination of the update that `state` and `batch` make; changes neither.

    Args:
      session: the run's session, with its model and objective.
      state: the state before the update.
      batch: the update's batch, on the devices.
    """
    program = session.program
    names = program.names
    forward = forward_entries(session.experiment, program.variables(state.params, program.frozen), state.step, batch)
    place = functools.partial(_place, {(entry.name, entry.layer): at for at, entry in enumerate(forward)})

    @jax.jit
    def backward(state: TrainState, batch: Batch, frozen: Frozen) -> tuple[Any, ...]:
        loss_sum, sums, grads = program.gradients(state, batch, frozen)
        means = {"loss": loss_sum / jnp.maximum(sums.weight, 1.0), **sums.means()}
        return _tree_stats(means, None), _tree_stats(state.params, names), _tree_stats(grads, names)

    without_moments = dataclasses.replace(state, opt_state=None)
    loss, params, grads = jax.device_get(backward(without_moments, batch, program.frozen))
    return Examination(
        parameters=sorted(_entries(params), key=place),
        forward=forward,
        loss=_entries(loss),
        gradients=sorted(_entries(grads), key=place, reverse=True),
    )


def forward_entries(experiment: Experiment, variables: Mapping[str, Any], updates: Any, batch: Batch) -> list[Entry]:
    """Returns the modules' outputs, in the order in which they are computed.

    Args:
      experiment: the model, and how it is run.
      variables: the collections that the model is applied with (`Program.variables`).
      updates: so many were made before.
      batch: the update's batch, on the devices.
    """
    # Without a backward pass nothing is computed again, so nothing needs rematerialisation.
    model = experiment.model.build(dataclasses.replace(experiment.execution, remat="none"))
    parts = experiment.train.accumulation
    key = step_key(experiment.train.seed, updates)

    @jax.jit
    def run(variables: Any, inputs: Mapping[str, Any], rows: jax.Array) -> dict[str, _Output]:
        inputs = balanced({"inputs": inputs}, experiment.execution.context, experiment.model.kind)["inputs"]
        dropped = adapter_dropout(experiment.adapter.dropout)
        with nn.intercept_methods(_leave_stats()), numbered(rows), dropped:
            _, left = model.apply(
                variables, **inputs, deterministic=False, rngs={"dropout": key}, mutable=["intermediates"]
            )
        return dict(_outputs(left))

    total: dict[str, _Output] = {}
    for part in range(parts):
        inputs = jax.tree.map(lambda x, part=part: x[part::parts], batch["inputs"])
        rows = jnp.arange(part, jax.tree.leaves(batch)[0].shape[0], parts, dtype=jnp.int32)
        outputs = jax.device_get(run(variables, inputs, rows))
        total = {name: _together(total[name], output) for name, output in outputs.items()} if total else outputs
    ordered = sorted(total.items(), key=lambda item: np.min(item[1].serial))
    forward: list[Entry] = []
    # Consecutive modules in a scan's body run as a whole, layer after layer.
    for stacked, group in itertools.groupby(ordered, key=lambda item: item[1].serial.ndim > 0):
        entries = [entry for name, output in group for entry in _entries({name: output.stats})]
        forward += sorted(entries, key=lambda entry: entry.layer or 0) if stacked else entries
    return forward


def _leave_stats() -> Callable[..., Any]:
    """Returns a Flax interceptor that stores each module's `_Output` into the collection "intermediates"."""
    serial = itertools.count()

    def intercept(method: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        result = method(*args, **kwargs)
        floats = [leaf for leaf in jax.tree.leaves(result) if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)]
        if floats:
            output = _Output(jnp.int32(next(serial)), _joined([_stats(leaf, ()) for leaf in floats]))
            context.module.sow("intermediates", _SOWN + context.method_name, output)
        return result

    return intercept


def _outputs(left: Any) -> Iterable[tuple[str, _Output]]:
    """Yields (name, output) of what the interceptor stored: a module's path, with the method and the repeated call."""
    calls = jax.tree_util.tree_leaves_with_path(
        left["intermediates"], is_leaf=lambda x: isinstance(x, tuple) and bool(x) and isinstance(x[0], _Output)
    )
    for path, outputs in calls:
        *modules, last = jax.tree_util.keystr(path, simple=True, separator="\0").split("\0")
        if not last.startswith(_SOWN):
            continue
        method = last.removeprefix(_SOWN)
        name = "/".join(modules) + ("" if method == "__call__" else f".{method}")
        for number, output in enumerate(outputs, start=1):
            yield (name or "model") + (f" #{number}" if len(outputs) > 1 else ""), output


def _together(total: _Output, output: _Output) -> _Output:
    """Returns the figures of several microbatches' outputs, with another one added."""
    old, new = total.stats, output.stats
    return total._replace(
        stats=_Stats(np.maximum(old.largest, new.largest), old.bad + new.bad, old.values + new.values)
    )


def _stats(leaf: jax.Array, keep: tuple[int, ...]) -> _Stats:
    """Returns the figures of an array over all axes except those to keep."""
    axes = tuple(axis for axis in range(leaf.ndim) if axis not in keep)
    finite = jnp.isfinite(leaf)
    largest = jnp.max(jnp.where(finite, jnp.abs(leaf), 0).astype(jnp.float32), axis=axes, initial=0.0)
    bad = jnp.sum(~finite, axis=axes, dtype=jnp.float32)
    return _Stats(largest, bad, jnp.full_like(bad, leaf.size / max(bad.size, 1)))


def _joined(stats: list[_Stats]) -> _Stats:
    """Returns the figures of several arrays together."""
    return _Stats(
        functools.reduce(jnp.maximum, [part.largest for part in stats]),
        sum((part.bad for part in stats), jnp.float32(0)),
        sum((part.values for part in stats), jnp.float32(0)),
    )


def _tree_stats(tree: Any, names: Any) -> dict[str, _Stats]:
    """Returns the figures of each leaf by its path; [N] for stacked layers."""
    axes = jax.tree.leaves(param_names(tree) if names is None else names, is_leaf=is_names)
    leaves = zip(flatten(tree).items(), axes, strict=True)
    return {path: _stats(leaf, layer_axes(names_of)) for (path, leaf), names_of in leaves}


def _entries(stats: Mapping[str, _Stats]) -> list[Entry]:
    """Returns an entry for each array or, where layers are stacked, for each layer."""
    entries = []
    for name, (largest, bad, values) in stats.items():
        if np.ndim(bad) == 0:
            entries.append(Entry(name, None, float(largest), int(bad), int(values)))
        else:
            layers = zip(largest, bad, values, strict=True)
            entries += [Entry(name, layer, float(x), int(y), int(z)) for layer, (x, y, z) in enumerate(layers)]
    return entries


def _place(forward: Mapping[tuple[str, int | None], int], parameter: Entry) -> int:
    """Returns the place in the forward pass of a parameter's module, the first one if it is used again."""
    for name in reversed(modules_of(parameter.name)):
        for used in (parameter.layer, 0, None):  # layers may share a parameter that is not stacked
            for key in ((name, used), (f"{name} #1", used)):
                if key in forward:
                    return forward[key]
    return len(forward)
