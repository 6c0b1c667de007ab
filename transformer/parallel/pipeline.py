"""Pipeline: a stack of layers cut into stages, one a device of the mesh axis `pipeline`, that rows run through.

A batch is cut into microbatches, which enter one a tick. All stages work at every tick, each on another microbatch,
and hand their rows on to the next stage: an array over the stages, rolled by one, which the compiler turns into a
permute between devices (GPipe's schedule, Huang et al. 2019, written as in Xu et al. 2021, "GSPMD", section 3.3). S
stages and M microbatches take M + S - 1 ticks, in S - 1 of which a stage has nothing to do: the bubble. It then
computes on zeros or on leftovers, of which nothing may get out.

Shape letters: S stages, N layers, M microbatches, B rows of the batch, R = B / M rows of a microbatch.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from transformer.errors import UserError
from transformer.parallel.rules import RULES, free_axes

AXIS = "pipeline"
_FREE = PartitionSpec.UNCONSTRAINED

Layer = Callable[[Any, Any, Any, Any], tuple[Any, Any]]
"""Called as layer(x, of_layer, common, shared) -> (x, sums)."""


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """A schedule: so many stages, so many microbatches."""

    stages: int
    microbatches: int

    @property
    def ticks(self) -> int:
        """Steps of the schedule."""
        return self.microbatches + self.stages - 1

    def describe(self) -> str:
        """Returns the schedule in a line, with a warning where it is mostly bubble."""
        idle = self.stages - 1
        line = (
            f"a pipeline of {self.stages} stages and {self.microbatches} microbatches: each stage is idle in {idle} of "
            f"{self.ticks} ticks, {idle / self.ticks:.0%} (the bubble)"
        )
        if self.microbatches < self.stages:
            line = f"warning: {line}: there are fewer microbatches than stages; raise --execution.microbatches"
        return line

    def run(self, layer: Layer, x: Any, stacked: Any, common: Any, shared: Any, *, unroll: int = 1) -> tuple[Any, Any]:
        """Returns the last layer's `x`, and the sums that the layers return, stacked.

        Each tick is computed again in the backward pass: of a tick, only the rows that enter its stages are kept.

        Args:
          layer: computes one layer on one microbatch. What it returns beside `x` is summed over microbatches.
          x: tree of arrays [B, ...] that go from layer to layer.
          stacked: tree of arrays [N, ...], of which each layer gets its part, `of_layer`.
          common: tree of arrays that all layers get as they are: parameters that they share.
          shared: tree of arrays that all layers get: those with B rows are cut into microbatches and go with them;
            those with one row, or scalars, serve all rows.
          unroll: layers a step of the loop over a stage's layers.

        Raises:
          ValueError: an array in `shared` has neither B rows nor one.
        """
        rows = jax.tree.leaves(x)[0].shape[0]
        leaves, treedef = jax.tree.flatten(shared)
        travels = [_travels(leaf, rows) for leaf in leaves]
        moving = [leaf for leaf, moves in zip(leaves, travels, strict=True) if moves]
        # A copy a stage, so that a stage adds up its own gradients, and stages are summed once, after the last tick.
        still = _copies([leaf for leaf, moves in zip(leaves, travels, strict=True) if not moves], self.stages)
        common = _copies(common, self.stages)
        entering = jax.tree.map(self._entering, (x, moving))
        stacked = jax.tree.map(lambda leaf: _staged(leaf.reshape(self.stages, -1, *leaf.shape[1:])), stacked)

        def stage(works: jax.Array, x: Any, moving: Any, stacked: Any, common: Any, still: Any) -> tuple[Any, Any]:
            x, moving, stacked, common, still = _only_if(works, (x, moving, stacked, common, still))
            given = {True: iter(moving), False: iter(still)}
            shared = treedef.unflatten([next(given[moves]) for moves in travels])
            x, sums = jax.lax.scan(lambda x, of_layer: layer(x, of_layer, common, shared), x, stacked, unroll=unroll)
            return x, jax.tree.map(lambda leaf: jnp.where(works, leaf, jnp.zeros((), leaf.dtype)), sums)

        stage_S = jnp.arange(self.stages, dtype=jnp.int32)

        def tick(held: Any, at_and_new: Any) -> tuple[Any, Any]:
            at, new = at_and_new
            x, moving = jax.tree.map(lambda old, new: jnp.where(_like(stage_S == 0, old), new, old), held, new)
            works_S = (stage_S <= at) & (at < stage_S + self.microbatches)
            x, sums = jax.vmap(stage, spmd_axis_name=AXIS)(works_S, x, moving, stacked, common, still)
            return jax.tree.map(_passed_on, (x, moving)), (x, sums)

        nothing = jax.tree.map(lambda leaf: _staged(jnp.zeros(leaf.shape[1:], leaf.dtype), batch=True), entering)
        remat = jax.checkpoint(tick, prevent_cse=False, policy=jax.checkpoint_policies.nothing_saveable)
        ticks = jnp.arange(self.ticks, dtype=jnp.int32)
        _, (outputs, sums) = jax.lax.scan(remat, nothing, (ticks, entering))
        sums = jax.tree.map(lambda leaf: leaf.sum(axis=0, dtype=leaf.dtype).reshape(-1, *leaf.shape[3:]), sums)
        return jax.tree.map(self._left, outputs), sums

    def _entering(self, leaf: jax.Array) -> jax.Array:
        """Returns what enters at each tick, [ticks, S, R, ...], of an array of rows [B, ...]: a copy a stage, of which
        the first stage takes its own. One copy would have its gradient summed over stages at each tick.

        Row r goes to microbatch r mod M: each keeps rows of every device, so nothing moves between those of a stage.
        """
        micro_MR = jnp.swapaxes(leaf.reshape(-1, self.microbatches, *leaf.shape[1:]), 0, 1)
        late = ((0, self.stages - 1), *((0, 0) for _ in micro_MR.shape[1:]))
        ticks = jnp.pad(micro_MR, late)[:, None]
        return _placed(jnp.repeat(ticks, self.stages, axis=1), None, AXIS, _rows_axes(ticks.shape[2]))

    def _left(self, leaf: jax.Array) -> jax.Array:
        """Returns the rows [B, ...] that left the last stage, of all stages' outputs [ticks, S, R, ...]."""
        last = jnp.arange(self.stages, dtype=jnp.int32) == self.stages - 1
        late = _placed(leaf, None, AXIS, _rows_axes(leaf.shape[2]))[self.stages - 1 :]
        kept = jnp.where(_like(last, late[0])[None], late, jnp.zeros((), leaf.dtype))
        # All but one are zeros, so a sum in the dtype of the activations is exact.
        micro_MR = jax.lax.reduce_sum(kept, axes=(1,))
        return jnp.swapaxes(micro_MR, 0, 1).reshape(-1, *micro_MR.shape[2:])


def pipeline_of(microbatches: int | None, layers: int, rows: int, *, cached: bool = False) -> Pipeline | None:
    """Returns how the mesh of today runs a stack of `layers` over a batch of `rows`; None: without a pipeline.

    Args:
      microbatches: as `pipeline_on`'s. A batch of fewer rows (one of an update, looked at by itself) leaves it open:
        an update's own is refused before, where its session begins.
      layers: of the stack.
      rows: of the batch.
      cached: whether the layers read and write a cache of keys and values.

    Raises:
      UserError: stages do not divide the layers, there is a cache, or as `pipeline_on` does.
    """
    mesh = jax.sharding.get_abstract_mesh()
    microbatches = None if microbatches is None or rows < microbatches else microbatches
    if mesh.empty or (pipeline := pipeline_on(mesh, microbatches, rows)) is None:
        return None
    if cached:
        raise UserError("decoding with a cache has no pipeline: use --mesh.pipeline 1")
    if layers % pipeline.stages:
        raise UserError(f"a stack of {layers} layers is not divided by --mesh.pipeline {pipeline.stages}")
    return pipeline


def pipeline_on(mesh: Any, microbatches: int | None, rows: int) -> Pipeline | None:
    """Returns the schedule for a batch of `rows` on a mesh; None: the mesh has no pipeline.

    Where it is left open, the number of microbatches is the largest multiple of the stages, up to four times as many,
    that divides the rows so that devices divide a microbatch's; where no multiple does, the largest such number up to
    four times the stages. (With four times as many microbatches as stages, Huang et al. 2019, section 2.3, found the
    bubble negligible.)

    Args:
      mesh: the mesh, abstract or not.
      microbatches: what is asked for; None: it is left open.
      rows: of the batch.

    Raises:
      UserError: what is asked for does not divide the rows, or devices do not divide a microbatch's.
    """
    stages, parts = mesh.shape.get(AXIS, 1), math.prod(mesh.shape[axis] for axis in _batch_axes(mesh))
    if stages == 1:
        return None
    if microbatches is None:
        of_device = rows // math.gcd(rows, parts)
        choices = [count for count in range(1, min(4 * stages, of_device) + 1) if of_device % count == 0]
        return Pipeline(stages, max(choices, key=lambda count: (count % stages == 0, count)))
    if rows % microbatches:
        raise UserError(f"a batch of {rows} rows is not divided by --execution.microbatches {microbatches}")
    # Rows that do not divide as they are, of a prompt or a probe, are left to the compiler as on any mesh.
    if rows % parts == 0 and (rows // microbatches) % parts:
        raise UserError(
            f"{rows} rows / --execution.microbatches {microbatches} = {rows // microbatches} rows are not divided by "
            f"the mesh's data x fsdp x expert = {parts} devices: change one of them"
        )
    return Pipeline(stages, microbatches)


def _travels(leaf: jax.Array, rows: int) -> bool:
    """Whether an array that all layers get has a row for each of the batch."""
    if leaf.ndim and leaf.shape[0] not in (1, rows):
        raise ValueError(f"all layers get an array {leaf.shape}, which has neither the batch's {rows} rows nor one")
    return leaf.ndim > 0 and leaf.shape[0] == rows


def _copies(tree: Any, stages: int) -> Any:
    """Returns each array [...] of a tree once a stage, [S, ...]."""
    return jax.tree.map(lambda leaf: _staged(jnp.broadcast_to(leaf[None], (stages, *leaf.shape))), tree)


def _like(of_stage: jax.Array, leaf: jax.Array) -> jax.Array:
    """Returns an array [S], shaped to broadcast against one [S, ...]."""
    return of_stage.reshape(-1, *(1 for _ in leaf.shape[1:]))


def _staged(leaf: jax.Array, *, batch: bool = False) -> jax.Array:
    """Returns an array [S, ...] or, with `batch`, [S, R, ...], a stage a device."""
    return _placed(leaf, AXIS, *([_rows_axes(leaf.shape[1])] if batch else []))


def _rows_axes(rows: int) -> Any:
    mesh = jax.sharding.get_abstract_mesh()
    axes = _batch_axes(mesh)
    return axes if rows % math.prod(mesh.shape[axis] for axis in axes) == 0 else _FREE


def _batch_axes(mesh: Any) -> tuple[str, ...]:
    """Returns the axes that split rows here."""
    return free_axes(RULES["activation_batch"], mesh)


def _placed(leaf: jax.Array, *axes: Any) -> jax.Array:
    """Returns an array with its first axes split so, the others as the compiler likes."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf
    spec = PartitionSpec(*axes, *(_FREE for _ in leaf.shape[len(axes) :]))
    return jax.lax.with_sharding_constraint(leaf, spec)


def _passed_on(leaf: jax.Array) -> jax.Array:
    """Returns each stage's array [S, ...] at the next stage."""
    return _permuted(leaf) if jnp.issubdtype(leaf.dtype, jnp.inexact) else _rolled(leaf, 1)


def _rolled(leaf: jax.Array, by: int) -> jax.Array:
    return _staged(jnp.roll(leaf, by, axis=0))


@jax.custom_vjp
def _permuted(leaf: jax.Array) -> jax.Array:
    """Returns `leaf` rolled; its gradient is rolled back, by one permute. Of a roll's, the compiler makes two."""
    return _rolled(leaf, 1)


_permuted.defvjp(lambda leaf: (_rolled(leaf, 1), None), lambda _, gradient: (_rolled(gradient, -1),))


def _only_if(works: jax.Array, tree: Any) -> Any:
    """Returns the tree as it is, and zeros as its gradients unless `works`, whatever they are: NaN too."""

    def gate(leaf: jax.Array) -> jax.Array:
        return _gate(works, leaf) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf

    return jax.tree.map(gate, tree)


@jax.custom_vjp
def _gate(works: jax.Array, x: jax.Array) -> jax.Array:
    del works
    return x


def _gate_forward(works: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return x, works


def _gate_backward(works: jax.Array, gradient: jax.Array) -> tuple[None, jax.Array]:
    return None, jnp.where(works, gradient, jnp.zeros((), gradient.dtype))


_gate.defvjp(_gate_forward, _gate_backward)
