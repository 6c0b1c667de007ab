"""State, and the one jitted update of it."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from transformer.layers.execution import Execution
from transformer.models import Architecture
from transformer.objectives import Objective
from transformer.sharding import param_names, param_shardings, with_shardings
from transformer.training.schedule import Rates, Schedule

Batch = Mapping[str, Any]
"""`inputs` (the model's keyword arguments), `targets`, `weights` and what else the objective's loss reads, each
[B, ...] and numpy or jax."""


@struct.dataclass
class TrainState:
    """Everything that an update changes."""

    step: Any
    """int32: updates so far; also the data position, and what dropout's keys are folded with."""
    params: Any
    opt_state: Any
    skipped: Any
    """int32: updates skipped in a row, because the loss or a gradient was not finite."""


def checkpointables(state: TrainState) -> dict[str, Any]:
    """Returns a state, or an abstract one, as what is saved apart: `params`, and `opt_state`, which is all the rest."""
    return {"params": state.params, "opt_state": dataclasses.replace(state, params=None)}


class Knobs(NamedTuple):
    """What a run's compiled functions take as arguments: runs that differ in nothing else share them."""

    seed: Any
    """int32: of the parameters and of dropout."""
    schedule: Schedule
    """Of the learning rate."""


class Program(NamedTuple):
    """The compiled functions of a run, and the shardings of its state."""

    init: Callable[[], TrainState]
    step: Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]
    evaluate: Callable[[Any, Batch], dict[str, jax.Array]]
    gradients: Callable[[TrainState, Batch], tuple[jax.Array, dict[str, jax.Array], Any]]
    """What `step` computes before it updates anything: the sum of losses, the sums of the metrics, and the gradients of
    the mean loss. Not compiled by itself."""
    abstract: TrainState
    """ShapeDtypeStructs with shardings: what a restore aims at."""
    compile_step: Callable[[TrainState, Batch], None]
    """Compiles `step` for such arguments, and runs nothing: for processes that are to begin the first one together."""
    retuned: Callable[[Schedule], "Program"]
    """Returns the program of the same run with other numbers of its schedule: nothing is compiled for it."""


def step_key(seed: int, updates: Any) -> jax.Array:
    """Returns the key of dropout in the update that comes after so many."""
    return jax.random.fold_in(jax.random.key(seed), updates)


def make_program(
    architecture: Architecture,
    execution: Execution,
    objective: Objective,
    make_optimizer: Callable[[Any, Rates], optax.GradientTransformation],
    schedule: Schedule,
    mesh: Mesh,
    *,
    seed: int,
    accumulation: int = 1,
    rescaled: Callable[[Any, Any], Any] | None = None,
) -> Program:
    """Returns the run's compiled functions; compilation itself waits for the first call.

    Args:
      architecture: what to train; its module takes `batch["inputs"]` as keyword arguments.
      execution: how to compute it.
      objective: gives `loss(outputs, batch) -> (loss_sum, weight, metrics)`, sums over the batch.
      make_optimizer: tree of the parameters' logical axis names, an update's learning rates -> the optimizer. What it
        keeps from update to update does not depend on the rates.
      schedule: of the learning rate. Its numbers, and the seed, are arguments of what is compiled.
      mesh: today's devices.
      seed: of the parameters and of dropout.
      accumulation: microbatches that a batch is cut into. Sums and weights are added over them and divided once, so
        the update is that of the whole batch.
      rescaled: what the parameters begin as, from those that the model draws, and the seed (`mup`); None: as they are
        drawn.

    Raises:
      UserError: a parameter that the mesh does not divide.
    """
    model = architecture.build(execution)
    boxed = architecture.abstract_params()
    names = param_names(boxed)
    shardings = _state_shardings(boxed, make_optimizer(names, schedule.rates(0)), mesh)
    replicated = NamedSharding(mesh, PartitionSpec())
    own = Knobs(np.asarray(np.int64(seed)).astype(np.int32), schedule)

    def init(knobs: Knobs) -> TrainState:
        params = nn.meta.unbox(model.init(jax.random.key(knobs.seed), **architecture.example_inputs())["params"])
        params = params if rescaled is None else rescaled(params, knobs.seed)
        zero = jnp.zeros((), jnp.int32)
        opt_state = make_optimizer(names, knobs.schedule.rates(zero)).init(params)
        return TrainState(step=zero, params=params, opt_state=opt_state, skipped=zero)

    def loss_fn(params, batch: Batch, key: jax.Array | None):
        rngs = {} if key is None else {"dropout": key}
        outputs = model.apply({"params": params}, **batch["inputs"], deterministic=key is None, rngs=rngs)
        loss_sum, weight, metrics = objective.loss(outputs, batch)
        return loss_sum, {"weight": weight, **metrics}

    def gradients(params, batch: Batch, key: jax.Array):
        """Sums over the batch: (loss_sum, metrics), gradient of loss_sum."""
        value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)
        if accumulation == 1:
            return value_and_grad(params, batch, key)
        # Row r goes to microbatch r mod A: each keeps rows of every device, so none is idle and nothing moves.
        micro = jax.tree.map(lambda x: jnp.swapaxes(x.reshape(-1, accumulation, *x.shape[1:]), 0, 1), dict(batch))

        def body(total, index_and_rows):
            index, rows = index_and_rows
            return jax.tree.map(jnp.add, total, value_and_grad(params, rows, jax.random.fold_in(key, index))), None

        zeros = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype),
            jax.eval_shape(value_and_grad, params, jax.tree.map(lambda x: x[0], micro), key),
        )
        return jax.lax.scan(body, zeros, (jnp.arange(accumulation), micro))[0]

    def mean_gradients(
        state: TrainState, batch: Batch, seed: Any = own.seed
    ) -> tuple[jax.Array, dict[str, jax.Array], Any]:
        (loss_sum, sums), grads = gradients(state.params, batch, step_key(seed, state.step))
        weight = jnp.maximum(sums["weight"], 1.0)
        return loss_sum, sums, jax.tree.map(lambda g: g / weight.astype(g.dtype), grads)

    def step(state: TrainState, batch: Batch, knobs: Knobs) -> tuple[TrainState, dict[str, jax.Array]]:
        loss_sum, sums, grads = mean_gradients(state, batch, knobs.seed)
        # By the step, skipped updates too: the last one has the schedule's last rate.
        rates = knobs.schedule.rates(state.step)
        tx = make_optimizer(names, rates)
        weight = jnp.maximum(sums["weight"], 1.0)
        grad_norm = optax.tree.norm(grads)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        finite = jnp.isfinite(loss_sum) & jnp.isfinite(grad_norm)

        def keep(new, old):
            return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)

        new = TrainState(
            step=state.step + 1,
            params=keep(params, state.params),
            opt_state=keep(opt_state, state.opt_state),
            skipped=jnp.where(finite, 0, state.skipped + 1),
        )
        metrics = {"loss": loss_sum / weight, "grad_norm": grad_norm, "skipped": new.skipped}
        metrics["learning_rate"] = rates.main
        return new, metrics | {name: value / weight for name, value in sums.items() if name != "weight"}

    def evaluate(params, batch: Batch) -> dict[str, jax.Array]:
        """Sums over the batch: weight and the objective's metrics."""
        return loss_fn(params, batch, None)[1]

    options = execution.compiler_options(mesh.devices.flat[0].platform) if isinstance(mesh, Mesh) else {}
    jit = functools.partial(jax.jit, compiler_options=options or None)
    initialised = jit(init, out_shardings=shardings)
    stepped = jit(step, donate_argnums=0, out_shardings=(shardings, replicated))
    evaluated = jit(evaluate, out_shardings=replicated)
    abstract = with_shardings(jax.eval_shape(init, own), shardings)

    def program(knobs: Knobs) -> Program:
        @functools.cache
        def placed() -> Knobs:
            # `device_put` would ask all processes whether they have the same.
            return jax.tree.map(lambda number: jax.make_array_from_process_local_data(replicated, number), knobs)

        ahead: list[Callable[..., Any]] = []  # `step`, once it is compiled ahead

        def compile_step(state: TrainState, batch: Batch) -> None:
            ahead[:] = [stepped.lower(state, batch, placed()).compile()]

        return Program(
            init=lambda: initialised(placed()),
            step=lambda state, batch: (ahead[0] if ahead else stepped)(state, batch, placed()),
            compile_step=compile_step,
            evaluate=evaluated,
            gradients=mean_gradients,
            abstract=abstract,
            retuned=lambda schedule: program(Knobs(knobs.seed, schedule)),
        )

    return program(own)


def _state_shardings(boxed, tx: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """The moments take their parameters' shardings; what has another shape (Adafactor's factors) is replicated."""
    shardings = param_shardings(boxed, mesh)
    params = nn.meta.unbox(boxed)
    replicated = NamedSharding(mesh, PartitionSpec())
    by_path = dict(jax.tree_util.tree_leaves_with_path(shardings))
    shapes = {path: leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)}

    def of_moment(path: tuple, leaf) -> NamedSharding:
        # An optimizer keeps a tree like the parameters' for each moment, so a moment's path ends in its parameter's.
        ends = (path[start:] for start in range(len(path)))
        return next((by_path[end] for end in ends if shapes.get(end) == leaf.shape), replicated)

    opt_state = jax.tree_util.tree_map_with_path(of_moment, jax.eval_shape(tx.init, params))
    return TrainState(step=replicated, params=shardings, opt_state=opt_state, skipped=replicated)
