"""Program: the compiled functions of an experiment on a mesh, of which the update is one."""

import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from transformer.adapters.adaptation import Adaptation
from transformer.layers.low_rank import adapter_dropout
from transformer.layers.routing import Routers, router_losses, router_metrics
from transformer.models import Architecture
from transformer.mup import parametrization as mup
from transformer.ops.elementwise import numbered
from transformer.parallel.context import balanced
from transformer.parallel.layout import with_shardings
from transformer.params import flatten, param_names, unflatten
from transformer.planning.rematerialisation import Choice, chosen
from transformer.training.accumulation import added_up, with_row_numbers
from transformer.training.balance import rebalanced
from transformer.training.experiment import Experiment
from transformer.training.frozen import BASE, TEACHER, Frozen, FrozenArrays, distillation_of, frozen_of
from transformer.training.optimizer import make_optimizer, make_schedule
from transformer.training.schedule import Rates, Schedule
from transformer.training.state import Batch, TrainState, moment_shardings, state_shardings, step_key
from transformer.transfer.weights import adapted

Metrics = dict[str, jax.Array]
"""Name -> float32 []."""


class Sums(NamedTuple):
    """Sums over a batch, or a microbatch: they add up, and are divided once."""

    weight: jax.Array
    """Weight of the targets."""
    metrics: Metrics
    """Sums of the objective's metrics."""
    routers: Routers
    """Sums of the experts' routers; empty without experts."""

    def means(self) -> Metrics:
        """Returns the metrics of a whole batch."""
        weight = jnp.maximum(self.weight, 1.0)
        means = {name: value / weight for name, value in self.metrics.items()}
        return means | (router_metrics(self.routers) if self.routers else {})


class Evaluated(NamedTuple):
    """What an evaluation takes of a batch."""

    sums: Sums
    predictions: dict[str, jax.Array]
    """Name -> [B, ...], what the objective scores of each example; empty where sums say all."""


class TracedHyperparameters(NamedTuple):
    """Numbers that compiled functions take as arguments: runs that differ only in them share compiled functions."""

    seed: Any
    """int32: seed of the parameters and of dropout's masks."""
    schedule: Schedule
    """Schedule of the learning rate."""


class Program:
    """The functions of an experiment on a mesh. Each is compiled when it is first called.

    Sums and weights are added over devices and microbatches and divided once, so that neither changes the update.
    """

    abstract: TrainState
    """The state as ShapeDtypeStructs with shardings, onto which checkpoints are restored."""
    adapter: Adaptation | None
    """Which parameters are trained beside a frozen base; None: all are, and there is no base."""
    names: Any
    """The tree of the logical axis names of what is trained."""
    remat: Choice
    """What the step computes again in its backward pass."""

    def __init__(
        self,
        experiment: Experiment,
        mesh: Mesh,
        architecture: Architecture | None = None,
        frozen: FrozenArrays | None = None,
    ):
        """Makes the program of an experiment on `mesh`, in place of the experiment's own mesh.

        Args:
          experiment: the experiment.
          mesh: today's devices, or an abstract mesh.
          architecture: the model; None: the experiment's own.
          frozen: what it reads and never changes; None: what the experiment asks for.

        Raises:
          UserError: the mesh does not divide a parameter.
        """
        self._architecture = experiment.model if architecture is None else architecture
        self.remat = chosen(experiment, mesh)
        execution = dataclasses.replace(experiment.execution, remat=self.remat.policy)
        self._model = self._architecture.build(execution)
        self._context = experiment.execution.context
        self._objective, self._optimizer = experiment.objective, experiment.optimizer
        self._accumulation = experiment.train.accumulation
        self._mup = mup.scaling(self._architecture, experiment.mup, experiment.optimizer)
        self.adapter = adapted(experiment.adapter, experiment.init, self._architecture)
        boxed = (self.adapter or self._architecture).abstract_params()
        self.names = param_names(boxed)
        seed = np.asarray(np.int64(experiment.train.seed)).astype(np.int32)
        self._traced = TracedHyperparameters(seed, make_schedule(experiment.optimizer, experiment.train.steps))

        self._distillation = distillation_of(experiment, self._architecture)
        self._frozen = frozen_of(experiment, self.adapter, mesh) if frozen is None else frozen

        # ZeRO-1: an update is computed where its moments are, on a part of what `data` copies.
        self._moments = moment_shardings(boxed, mesh, zero1=experiment.mesh.zero1)
        self._zero1 = experiment.mesh.zero1 and mesh.shape["data"] > 1
        any_rates = Rates(np.float32(0), np.float32(0))  # numpy's: nothing runs on the mesh, which may not be there
        rule = self._update_rule(any_rates)
        shardings = state_shardings(boxed, rule, mesh, self._moments)
        self._replicated = NamedSharding(mesh, PartitionSpec())
        self.abstract = with_shardings(jax.eval_shape(self._init, self._traced), shardings)
        platform = mesh.devices.flat[0].platform if isinstance(mesh, Mesh) else None
        options = None if platform is None else experiment.execution.compiler_options(platform) or None
        jit = functools.partial(jax.jit, compiler_options=options)
        self._jit_init = jit(self._init, out_shardings=shardings)
        self._jit_step = jit(self._step, donate_argnums=0, out_shardings=(shardings, self._replicated))
        self._compiled_steps: dict[Any, Callable[..., Any]] = {}
        self._jit_evaluate = jit(self._evaluate, out_shardings=self._replicated)

    def with_schedule(self, schedule: Schedule) -> "Program":
        """Returns the program of the same run with another learning-rate schedule; nothing is compiled for it."""
        other = copy.copy(self)
        other._traced = self._traced._replace(schedule=schedule)
        other.__dict__.pop("hyperparameters", None)
        return other

    def init(self) -> TrainState:
        """Returns the state before the first update."""
        return self._jit_init(self.hyperparameters)

    def step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """Returns the state after an update, to which `state` is donated, and the update's metrics."""
        step = self._compiled_steps.get(_shapes(batch), self._jit_step) if self._compiled_steps else self._jit_step
        return step(state, batch, self.frozen, self.hyperparameters)

    def lower_step(self, state: TrainState, batch: Batch) -> jax.stages.Lowered:
        """Returns the program of `step` for such arguments, not compiled yet."""
        return self._jit_step.lower(state, batch, self.frozen, self.hyperparameters)

    def compile_step(self, lowered: jax.stages.Lowered, batch: Batch) -> None:
        """Compiles what `lower_step` returned of a batch, not running it, so that processes begin the step together."""
        self._compiled_steps[_shapes(batch)] = lowered.compile()

    def is_compiled(self, batch: Batch) -> bool:
        """Whether `compile_step` compiled the step for batches as wide as this one."""
        return _shapes(batch) in self._compiled_steps

    def trace(self, batch: Batch) -> jax.stages.Traced:
        """Returns the update's program, traced alone, for batches like this one; nothing is put on a device.

        So the devices of the mesh may be those of a topology that is not there (`transformer.planning`).

        Args:
          batch: arrays, or `ShapeDtypeStruct`s with shardings.
        """

        def abstract(number: Any) -> jax.ShapeDtypeStruct:
            array = np.asarray(number)
            dtype = jax.dtypes.canonicalize_dtype(array.dtype)
            return jax.ShapeDtypeStruct(array.shape, dtype, sharding=self._replicated)

        return self._jit_step.trace(self.abstract, batch, self._frozen.abstract, jax.tree.map(abstract, self._traced))

    def lower(self, batch: Batch) -> jax.stages.Lowered:
        """Returns what `trace` does, lowered for the mesh's platform and not compiled yet."""
        return self.trace(batch).lower()

    def evaluate(self, params: Any, batch: Batch) -> Evaluated:
        """Returns sums over the batch and what the objective scores of each example, without dropout."""
        return self._jit_evaluate(params, batch, self.frozen)

    def gradients(self, state: TrainState, batch: Batch, frozen: Frozen) -> tuple[jax.Array, Sums, Any]:
        """Returns the sum of losses, the other sums, and the gradients of the mean loss, as `step` computes them; not
        compiled by itself. `frozen` is the program's own, an argument of what the caller compiles.
        """
        return self._mean_gradients(state, batch, frozen, self._traced.seed)

    def update(self, state: TrainState, loss_sum: jax.Array, sums: Sums, grads: Any) -> tuple[TrainState, Metrics]:
        """Returns the state after an update by what `gradients` returned, and its metrics, as `step` computes them; not
        compiled by itself.
        """
        return self._updated(state, loss_sum, sums, grads, self._traced.schedule)

    @property
    def frozen(self) -> Frozen:
        """The arrays that it reads and never changes. All processes must ask for them in one place, the first time."""
        return self._frozen.arrays

    @functools.cached_property
    def hyperparameters(self) -> TracedHyperparameters:
        """The numbers that the compiled functions take, on the devices."""
        # `device_put` would compare the values of all processes.
        place = functools.partial(jax.make_array_from_process_local_data, self._replicated)
        with jax.ensure_compile_time_eval():  # what is kept must be arrays, also where a trace of `step` asks first
            return jax.tree.map(place, self._traced)

    def _update_rule(self, rates: Rates) -> optax.GradientTransformation:
        """Returns the optimizer at these rates, on which its state does not depend."""
        return make_optimizer(self._optimizer, rates, self.names, None if self._mup is None else self._mup.factors)

    def _init(self, traced: TracedHyperparameters) -> TrainState:
        drawn = self._model.init(jax.random.key(traced.seed), **self._architecture.example_inputs())
        params = nn.meta.unbox(drawn["params"])
        params = params if self._mup is None else self._mup.rescaled(params, traced.seed)
        if self.adapter is not None:
            drawn = flatten(params)  # of which what is frozen is never computed
            params = {path: drawn[path] for path in sorted(self.adapter.whole)}
            params = unflatten({**params, **self.adapter.initial(traced.seed)})
        zero = jnp.zeros((), jnp.int32)
        opt_state = self._update_rule(traced.schedule.rates(zero)).init(params)
        return TrainState(step=zero, params=params, opt_state=opt_state, skipped=zero)

    def variables(self, params: Any, frozen: Frozen) -> dict[str, Any]:
        """Returns the collections of variables that the model is applied with.

        Args:
          params: what is trained.
          frozen: the program's frozen arrays.
        """
        return {"params": params} if self.adapter is None else self.adapter.variables(params, frozen[BASE])

    def _loss(
        self, params: Any, batch: Batch, frozen: Frozen, key: jax.Array | None, whole: Sums | None = None
    ) -> tuple[jax.Array, Sums]:
        """Returns the sum of losses and the other sums over the batch; without a key there is no dropout.

        The routers' losses are of global sums, like the objective's: they join the sum of losses times its weight, by
        which that is divided.

        Args:
          params: the weights.
          batch: the batch, or a microbatch of it.
          frozen: what is read and never changes.
          key: dropout's.
          whole: the sums of the whole batch, where that has several microbatches; None: this is the whole batch.
        """
        outputs, _, losses = self._computed(params, batch, frozen, key)
        return self._with_routers(outputs, losses, whole)

    def _computed(
        self, params: Any, batch: Batch, frozen: Frozen, key: jax.Array | None
    ) -> tuple[Any, Batch, tuple[Any, Any, Metrics]]:
        """Returns the model's outputs, the batch in the order in which they are, and the losses as the objective sums
        them up, with a teacher's; arguments as `_loss`'s.
        """
        batch = balanced(batch, self._context, self._architecture.kind)
        variables, rngs = self.variables(params, frozen), {} if key is None else {"dropout": key}
        apply = functools.partial(self._model.apply, variables, deterministic=key is None, rngs=rngs)
        dropped = 0.0 if key is None or self.adapter is None else self.adapter.config.dropout
        if self._distillation is not None and key is not None:  # an evaluation is of the model alone
            with numbered(batch.get("rows")), adapter_dropout(dropped):
                outputs, losses = self._distillation(apply, frozen[TEACHER], batch)
            return outputs, batch, losses
        inputs, rows_B = batch["inputs"], batch.get("rows")
        if (count := self._objective.rows) > 1:
            inputs = jax.tree.map(lambda values: values.reshape(-1, *values.shape[2:]), inputs)
            if rows_B is not None:
                rows_B = (count * rows_B[:, None] + jnp.arange(count, dtype=rows_B.dtype)[None]).reshape(-1)
        with numbered(rows_B), adapter_dropout(dropped):
            outputs: Any = apply(**inputs)
        return outputs, batch, self._objective.loss(outputs, batch)

    def _with_routers(self, outputs: Any, losses: tuple[Any, Any, Metrics], whole: Sums | None) -> tuple[Any, Sums]:
        """Returns what `_loss` does, of what `_computed` returned."""
        loss_sum, weight, metrics = losses
        routing = self._architecture.routing
        sums = Sums(weight, metrics, {} if routing is None else outputs.routers)
        if self._balances and routing is not None:
            whole = sums if whole is None else whole
            balance, z = router_losses(sums.routers, whole.routers)
            added = routing.balance_loss * balance + routing.z_loss * z
            loss_sum += jax.lax.stop_gradient(jnp.maximum(whole.weight, 1.0)) * added
        return loss_sum, sums

    @property
    def _balances(self) -> bool:
        """Whether routers have a loss."""
        routing = self._architecture.routing
        return routing is not None and (routing.balance_loss > 0 or routing.z_loss > 0)

    def _evaluate(self, params: Any, batch: Batch, frozen: Frozen) -> Evaluated:
        outputs, batch, losses = self._computed(params, batch, frozen, None)
        return Evaluated(self._with_routers(outputs, losses, None)[1], self._objective.predictions(outputs, batch))

    def _summed_gradients(
        self, params: Any, batch: Batch, frozen: Frozen, key: jax.Array
    ) -> tuple[tuple[jax.Array, Sums], Any]:
        """Returns sums over the batch, (loss_sum, the others), and the gradient of loss_sum."""
        value_and_grad: Callable[..., Any] = jax.value_and_grad(self._loss, has_aux=True)
        parts = self._accumulation
        if parts == 1:
            return value_and_grad(params, batch, frozen, key)
        batch = with_row_numbers(batch)
        if not self._balances:
            return added_up(value_and_grad, parts)(params, batch, frozen, key)
        # A microbatch's share of the balance loss has a factor that only the whole batch tells: how many tokens chose
        # each expert. So the layers run forward once more, before; of the head, only the targets' weights are left.
        whole = added_up(lambda *args: self._loss(*args)[1]._replace(metrics={}), parts)(params, batch, frozen, key)
        return added_up(value_and_grad, parts)(params, batch, frozen, key, whole)

    def _mean_gradients(
        self, state: TrainState, batch: Batch, frozen: Frozen, seed: Any
    ) -> tuple[jax.Array, Sums, Any]:
        (loss_sum, sums), grads = self._summed_gradients(state.params, batch, frozen, step_key(seed, state.step))
        weight = jnp.maximum(sums.weight, 1.0)
        return loss_sum, sums, jax.tree.map(lambda g: g / weight.astype(g.dtype), grads)

    def _step(
        self, state: TrainState, batch: Batch, frozen: Frozen, traced: TracedHyperparameters
    ) -> tuple[TrainState, Metrics]:
        return self._updated(state, *self._mean_gradients(state, batch, frozen, traced.seed), traced.schedule)

    def _updated(
        self, state: TrainState, loss_sum: jax.Array, sums: Sums, grads: Any, schedule: Schedule
    ) -> tuple[TrainState, Metrics]:
        # By the step, skipped updates too: the last one has the schedule's last rate.
        rates = schedule.rates(state.step)
        weight = jnp.maximum(sums.weight, 1.0)
        if self._zero1:
            grads = jax.lax.with_sharding_constraint(grads, self._moments)
            state = dataclasses.replace(state, params=jax.lax.with_sharding_constraint(state.params, self._moments))
        grad_norm = optax.tree.norm(grads)
        updates, opt_state = self._update_rule(rates).update(grads, state.opt_state, state.params)
        params = rebalanced(optax.apply_updates(state.params, updates), self._architecture.routing, sums.routers)
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
        return new, metrics | sums.means()


def _shapes(batch: Batch) -> Any:
    """Returns what compiled functions tell batches apart by."""
    return tuple(leaf.shape for leaf in jax.tree.leaves(batch))
