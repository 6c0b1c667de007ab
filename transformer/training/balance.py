"""Balance without a loss: the biases by which routers choose experts, moved once an update.

Wang et al. 2024, "Auxiliary-loss-free load balancing strategy for mixture-of-experts", algorithm 1 (DeepSeek-V3,
section 2.1.2). A bias is a parameter that has no gradient and no weight decay: it is stored and restored with the
others, and an optimizer leaves it as it is.
"""

from typing import Any

import jax.numpy as jnp

from transformer.layers.experts_config import ExpertsConfig
from transformer.layers.routing import Routers
from transformer.params import flatten, unflatten


def rebalanced(params: Any, routing: ExpertsConfig | None, routers: Routers) -> Any:
    """Returns the parameters with the routers' biases moved: up where an expert had fewer tokens than the mean.

    Args:
      params: after the optimizer's update; biases that are not among them are not trained.
      routing: the model's experts, if any.
      routers: the sums of the update's whole batch.
    """
    if routing is None or not routing.selection_bias:
        return params
    leaves = flatten(params)
    for path, sums in routers.items():
        if f"{path}/router/bias" not in leaves:
            continue  # frozen: an adapter is trained beside it
        mean_E = sums.tokens_E.mean(axis=-1, keepdims=True)
        leaves[f"{path}/router/bias"] += routing.bias_rate * jnp.sign(mean_E - sums.tokens_E)
    return unflatten(leaves)
