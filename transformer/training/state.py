"""TrainState: what an update changes; and Batch: what it reads."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import optax
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from transformer.parallel.layout import param_shardings, spread
from transformer.params import Names, map_parameters, param_names

Batch = Mapping[str, Any]
"""`inputs` (the model's keyword arguments), `targets`, `weights` and anything else that the objective's loss reads,
each [B, ...] and numpy or jax."""


@struct.dataclass
class TrainState:
    """Everything that an update changes."""

    step: Any
    """int32: updates so far, which is also the position in the data and folded into dropout's keys."""
    params: Any
    opt_state: Any
    skipped: Any
    """int32: updates skipped in a row, because the loss or a gradient was not finite."""


def checkpointables(state: TrainState) -> dict[str, Any]:
    """Returns the separately saved parts of a state, or an abstract one: `params`, and `opt_state`, all the rest."""
    return {"params": state.params, "opt_state": dataclasses.replace(state, params=None)}


def step_key(seed: int, updates: Any) -> jax.Array:
    """Returns dropout's key for the update after `updates` others."""
    return jax.random.fold_in(jax.random.key(seed), updates)


def moment_shardings(boxed: Any, mesh: Mesh, *, zero1: bool) -> Any:
    """Returns the tree of the moments' shardings, one a parameter: the parameter's own, with `zero1` over `data` too.

    Raises:
      UserError: the mesh does not divide a parameter.
    """
    shardings = param_shardings(boxed, mesh)
    if not zero1:
        return shardings

    def moment(_: str, names: Names, leaf: Any, sharding: NamedSharding) -> NamedSharding:
        return spread(sharding, names, leaf.shape, "data")

    return map_parameters(moment, param_names(boxed), nn.meta.unbox(boxed), shardings)


def state_shardings(boxed: Any, tx: optax.GradientTransformation, mesh: Mesh, moments: Any) -> TrainState:
    """Returns the state's shardings; arrays of no parameter's shape (Adafactor's factors) are replicated.

    Args:
      boxed: abstract parameters with their logical axis names.
      tx: the optimizer.
      mesh: today's devices.
      moments: the tree of the moments' shardings, one a parameter.

    Raises:
      UserError: the mesh does not divide a parameter.
    """
    params = nn.meta.unbox(boxed)
    replicated = NamedSharding(mesh, PartitionSpec())
    by_path = dict(jax.tree_util.tree_leaves_with_path(moments))
    shapes = {path: leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)}

    def of_moment(path: tuple, leaf) -> NamedSharding:
        # An optimizer keeps a tree like the parameters for each moment, so a moment's path ends in its parameter's.
        ends = (path[start:] for start in range(len(path)))
        return next((by_path[end] for end in ends if shapes.get(end) == leaf.shape), replicated)

    opt_state = jax.tree_util.tree_map_with_path(of_moment, jax.eval_shape(tx.init, params))
    return TrainState(step=replicated, params=param_shardings(boxed, mesh), opt_state=opt_state, skipped=replicated)
