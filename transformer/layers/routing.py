"""Routing: which experts a token goes to, and the sums that balance, metrics and the experts' biases are made of.

Shape letters: B batch, T length, E experts, K experts of a token, G groups of experts.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from transformer.layers.experts_config import ExpertsConfig


class RouterSums(struct.PyTreeNode):
    """Sums over tokens, padding left out: added over rows, microbatches and stages, and divided once."""

    tokens_E: jax.Array
    """Tokens that chose each expert, those that it then dropped too."""
    scores_E: jax.Array
    """Tokens' shares of each expert: the softmax, or the sigmoids divided by their sum."""
    z: jax.Array
    """Squares of the logarithm of the logits' sum of exponentials."""
    entropy: jax.Array
    """Nats of the shares' distribution."""
    dropped: jax.Array
    """Choices that a full expert could not take."""
    weight: jax.Array
    """Tokens."""


Routers = dict[str, RouterSums]
"""Path of a mixture's module -> its sums, float32; of a stack's layers, stacked."""


class Choice(NamedTuple):
    """Where tokens go."""

    experts_BTK: jax.Array
    """int32, best first; E where a token goes nowhere."""
    weights_BTK: jax.Array
    """float32: what the experts' outputs are multiplied with."""


def choose(
    config: ExpertsConfig, logits_BTE: jax.Array, bias_E: jax.Array | None, real_BT: jax.Array | None
) -> tuple[Choice, RouterSums]:
    """Returns each token's experts, and the sums over tokens.

    Args:
      config: how to choose.
      logits_BTE: the router's scores of each expert, float32.
      bias_E: added to the scores for the choice alone (DeepSeek-AI 2024, "DeepSeek-V3", equation 16); not
        differentiated. None: nothing is.
      real_BT: bool: which tokens are no padding, which goes nowhere and counts in no sum. None: all are.
    """
    softmax = config.scores == "softmax"
    scores_BTE = jax.nn.softmax(logits_BTE) if softmax else jax.nn.sigmoid(logits_BTE)
    ranked_BTE = scores_BTE if bias_E is None else scores_BTE + bias_E[None, None]
    ranked_BTE = jax.lax.stop_gradient(ranked_BTE)
    if config.groups > 1:
        ranked_BTE = _within_best_groups(ranked_BTE, config.groups, config.groups_per_token)
    experts_BTK = _largest(ranked_BTE, config.experts_per_token)
    weights_BTK = jnp.take_along_axis(scores_BTE, experts_BTK, axis=-1)
    if config.normalize:
        weights_BTK /= weights_BTK.sum(axis=-1, keepdims=True) + 1e-20
    weights_BTK *= config.scale
    if real_BT is not None:
        experts_BTK = jnp.where(real_BT[..., None], experts_BTK, jnp.int32(config.num_experts))
        weights_BTK = jnp.where(real_BT[..., None], weights_BTK, jnp.float32(0))
    shares_BTE = scores_BTE if softmax else scores_BTE / scores_BTE.sum(axis=-1, keepdims=True)
    return Choice(experts_BTK, weights_BTK), _sums(experts_BTK, logits_BTE, shares_BTE, real_BT)


def _within_best_groups(ranked_BTE: jax.Array, groups: int, kept: int) -> jax.Array:
    """Returns the scores, minus infinity outside a token's best groups: those whose best two experts score most."""
    ranked_BTGe = ranked_BTE.reshape(*ranked_BTE.shape[:2], groups, -1)
    best_BTGk = _largest(ranked_BTGe, min(2, ranked_BTGe.shape[-1]))
    best_BTG = jnp.take_along_axis(ranked_BTGe, best_BTGk, axis=-1).sum(axis=-1)
    chosen_BTk = _largest(best_BTG, kept)
    inside_BTG = (chosen_BTk[..., None] == jnp.arange(groups, dtype=jnp.int32)[None, None, None]).any(axis=2)
    return jnp.where(inside_BTG[..., None], ranked_BTGe, -jnp.inf).reshape(ranked_BTE.shape)


def _largest(x: jax.Array, count: int) -> jax.Array:
    """Returns int32 [..., count]: the places of the largest along the last axis, the largest first.

    As `jax.lax.top_k`, which is compiled for a mesh by gathering the tokens of all devices; reductions stay apart.
    """
    places = []
    for _ in range(count):
        place = jnp.argmax(x, axis=-1).astype(jnp.int32)
        places.append(place)
        taken = jax.lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1) == place[..., None]
        x = jnp.where(taken, -jnp.inf, x)
    return jnp.stack(places, axis=-1)


def _sums(
    experts_BTK: jax.Array, logits_BTE: jax.Array, shares_BTE: jax.Array, real_BT: jax.Array | None
) -> RouterSums:
    batch, length, num_experts = logits_BTE.shape
    real_BT = jnp.ones((batch, length), bool) if real_BT is None else real_BT
    numbers_E = jnp.arange(num_experts, dtype=jnp.int32)
    chosen_E = (experts_BTK[..., None] == numbers_E[None, None, None]).sum(axis=(0, 1, 2), dtype=jnp.int32)
    logz_BT = jax.nn.logsumexp(logits_BTE, axis=-1)
    nats_BT = jax.scipy.special.entr(jax.lax.stop_gradient(shares_BTE)).sum(axis=-1)

    def total(values: jax.Array) -> jax.Array:
        mask = real_BT.reshape(real_BT.shape + (1,) * (values.ndim - 2))
        return jnp.where(mask, values, jnp.float32(0)).sum(axis=(0, 1))

    return RouterSums(
        tokens_E=chosen_E.astype(jnp.float32),
        scores_E=total(shares_BTE),
        z=total(jnp.square(logz_BT)),
        entropy=total(nats_BT),
        dropped=jnp.zeros((), jnp.float32),
        weight=real_BT.sum(dtype=jnp.int32).astype(jnp.float32),
    )


def router_losses(routers: Routers, totals: Routers) -> tuple[jax.Array, jax.Array]:
    """Returns the load-balance loss and the z-loss, means over all layers' routers.

    The first is E sum_e f_e P_e of each router (Fedus et al. 2022, "Switch Transformers", equations 4 to 6), where f_e
    is how many of a token's choices fall on expert e, K in all, as Hugging Face Transformers defines it for K > 1; the
    second the mean of squares of logsumexp (Zoph et al. 2022, "ST-MoE", equation 5).

    Args:
      routers: the sums whose scores are differentiated: of all the batch or of a microbatch, whose losses add up.
      totals: those of the whole batch, on all devices, taken as constants: what they count has no gradient.
    """
    balance, z, layers = jnp.float32(0), jnp.float32(0), 0
    for path, sums in routers.items():
        total = jax.lax.stop_gradient(totals[path])
        weight = jnp.maximum(total.weight, 1.0)
        chosen_E, shares_E = (array / weight[..., None] for array in (total.tokens_E, sums.scores_E))
        balance += (chosen_E.shape[-1] * chosen_E * shares_E).sum()
        z += (sums.z / weight).sum()
        layers += weight.size
    return balance / layers, z / layers


def router_metrics(routers: Routers) -> dict[str, jax.Array]:
    """Returns the metrics of whole sums, means over all layers' routers.

    `router_balance_loss` and `router_z_loss` are without their coefficients; `router_entropy` is in nats;
    `expert_max_load` is the busiest expert's tokens over the mean expert's; `expert_dropped` the share of choices that
    full experts could not take.
    """
    balance, z = router_losses(routers, routers)

    def mean(values: list[jax.Array]) -> jax.Array:
        return jnp.concatenate([jnp.ravel(value) for value in values]).mean()

    def share(part: jax.Array, whole: jax.Array) -> jax.Array:
        return part / jnp.maximum(whole, 1e-30)

    every = list(routers.values())
    return {
        "router_balance_loss": balance,
        "router_z_loss": z,
        "router_entropy": mean([share(sums.entropy, sums.weight) for sums in every]),
        "expert_max_load": mean([share(sums.tokens_E.max(axis=-1), sums.tokens_E.mean(axis=-1)) for sums in every]),
        "expert_dropped": mean([share(sums.dropped, sums.tokens_E.sum(axis=-1)) for sums in every]),
    }
