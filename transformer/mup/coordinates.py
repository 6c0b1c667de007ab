"""The coordinate check: how large activations are, and how far a few updates move them, at several widths.

Yang et al. 2022, "Tensor Programs V", section D.1: under muP neither goes with the width. Without it updates move the
activations of wide models further, and the learning rate that a narrow one bears makes a wide one diverge.

Shape letters: L layers, B batch, T length, H heads, G key-value heads, K head width.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from transformer.layers.attention import Attention
from transformer.models.vit import PixelsOutput
from transformer.mup.parametrization import scaling
from transformer.params import flatten
from transformer.training.experiment import Experiment
from transformer.training.session import Session
from transformer.training.state import Batch

Coordinates = Mapping[str, np.ndarray]
"""Quantity -> float32 [updates + 1, 2], before the first update and after each: the mean absolute value, and the mean
absolute change since before the first update. The quantities are each block's output (`STREAM`), the scores of each
block's attentions (`SCORES`), and what the head tells: scores, or pixels (`LOGITS`)."""

STREAM, SCORES, LOGITS = "stream", "scores", "logits"


def coordinates(session: Session, batches: Sequence[Batch]) -> Coordinates:
    """Returns the sizes of activations on the first batch, in the course of one update a batch."""
    program, activations_of = session.program, jax.jit(_activations(session.experiment))

    def seen(params: Any) -> dict[str, np.ndarray]:
        stacked = {name: np.asarray(x, np.float32) for name, x in activations_of(params, batches[0]).items()}
        logits = {LOGITS: stacked.pop(LOGITS)}
        return {f"{name} {n}": x for name, blocks in stacked.items() for n, x in enumerate(blocks, 1)} | logits

    with jax.set_mesh(session.mesh):
        state = program.init()
        after = [seen(state.params)]
        for batch in batches:
            state, _ = program.step(state, batch)
            after.append(seen(state.params))
    scale = _multipliers(session.experiment)
    return {
        name: np.array([[np.abs(now[name]).mean(), np.abs(now[name] - first).mean()] for now in after])
        / scale.get(name, 1.0)
        for name, first in after[0].items()
    }


def slope(sizes: Mapping[int, float]) -> float:
    """Returns b of size ~ width^b, by least squares of the logarithms: 0 where the width does not matter."""
    return float(np.polyfit(np.log(list(sizes)), np.log(list(sizes.values())), 1)[0])


def _activations(experiment: Experiment) -> Callable[[Any, Batch], dict[str, jax.Array]]:
    """Returns (parameters, batch) -> quantity -> activations, of all blocks of a stack stacked."""
    model = experiment.model.build(experiment.execution)

    def activations(params: Any, batch: Batch) -> dict[str, jax.Array]:
        outputs, seen = model.apply(
            {"params": params},
            **batch["inputs"],
            deterministic=True,
            mutable=["intermediates"],
            capture_intermediates=_is_projection,
        )
        flat: dict[str, Any] = flatten_dict(seen["intermediates"], sep="/")
        by_quantity = {}
        for path, value in flat.items():
            *where, what, call = path.split("/")
            if call == "hidden":
                by_quantity[_quantity(STREAM, [*where, what])] = value
            elif what == "query":
                [query], [key] = value, flat["/".join([*where, "key", call])]
                by_quantity[_quantity(SCORES, where)] = _scores(query, key, scaled=experiment.model.scales_scores)
        told = outputs.pixels_BPC if isinstance(outputs, PixelsOutput) else outputs.logits
        return by_quantity | {LOGITS: told}

    return activations


def _multipliers(experiment: Experiment) -> dict[str, float]:
    """Returns the multipliers of readouts that blocks' last norms hold, so that they are no part of a stream."""
    changes = scaling(experiment.model, experiment.mup, experiment.optimizer)
    if changes is None:
        return {}
    multiplier = flatten(changes.factors.multiplier)
    stacked = {
        norm: np.ravel(multiplier[f"{norm}/scale"]) for norm in experiment.model.tied_norms if "/layers/" in norm
    }
    return {f"{_quantity(STREAM, norm.split('/')[:-1])} {len(c)}": float(c[-1]) for norm, c in stacked.items()}


def _is_projection(module: nn.Module, _: str) -> bool:
    """Whether to keep a module's output, as flax asks."""
    return module.name in ("query", "key") and isinstance(module.parent, Attention)


def _quantity(kind: str, path: Sequence[str]) -> str:
    return " ".join([kind, *(part for part in path if part not in ("backbone", "stack", "layers"))])


def _scores(query_LBTHK: jax.Array, key_LBSGK: jax.Array, *, scaled: bool) -> jax.Array:
    """Returns [L, B, G, H / G, T, S]: of all pairs, masked or not, before rotary positions and T5's bias."""
    *rows, heads, width = query_LBTHK.shape
    groups = key_LBSGK.shape[-2]
    query = query_LBTHK.reshape(*rows, groups, heads // groups, width)
    scores = jnp.einsum("LBTGRK,LBSGK->LBGRTS", query, key_LBSGK)
    return scores * (width**-0.5 if scaled else 1.0)
