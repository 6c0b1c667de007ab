"""A mixture of experts in the place of a feed-forward layer: each token goes through the few experts that it chooses.

Shazeer et al. 2017, "Outrageously large neural networks"; Lepikhin et al. 2021, "GShard" (capacity); Fedus et al. 2022,
"Switch Transformers"; Gale et al. 2023, "MegaBlocks" (dropless); DeepSeek-AI 2024, "DeepSeek-V3" (groups, biases).

Shape letters: B batch, T length, D model width, E experts, K experts of a token, F MLP width of an expert, C capacity.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.layers.capacity import limited
from transformer.layers.experts_config import ExpertsConfig
from transformer.layers.low_rank import beside
from transformer.layers.mlp import MLP, GatedMLP
from transformer.layers.primitives import Initializer, held, parameter
from transformer.layers.routing import Routers, choose
from transformer.ops.elementwise import ACTIVATIONS
from transformer.ops.grouped import Matrices
from transformer.parallel.experts import dropless
from transformer.parallel.rules import RESIDUAL, constrain


class Experts(nn.Module):
    """The weighted sum of each token's experts, each a feed-forward layer without biases, and of the shared ones."""

    config: ExpertsConfig
    activation: str
    dtype: Any
    gated: bool = True
    """Whether an expert is down(f(gate(x)) * up(x)), else down(f(up(x)))."""
    kernel_init: Initializer = nn.initializers.normal(0.02)
    out_init: Initializer = nn.initializers.normal(0.02)

    @nn.compact
    def __call__(
        self, x_BTD: jax.Array, segment_ids_BT: jax.Array | None = None, *, deterministic: bool = True
    ) -> tuple[jax.Array, Routers]:
        """Returns [B, T, D], and the router's sums under this module's path.

        Args:
          x_BTD: the tokens.
          segment_ids_BT: 0 is padding, which no expert sees; None: no padding.
          deterministic: as of any feed-forward layer; experts drop no hidden values.
        """
        config, width = self.config, x_BTD.shape[-1]
        real_BT = None if segment_ids_BT is None else segment_ids_BT.astype(bool)
        logits_BTE, bias_E = Router(config, self.kernel_init, name="router")(x_BTD)
        choice, sums = choose(config, logits_BTE, bias_E, real_BT)
        wide = (config.num_experts, width, config.mlp_width)
        narrow = (config.num_experts, config.mlp_width, width)
        kernels = {
            name: ExpertKernels(wide, ("experts", "expert_embed", "mlp"), self.kernel_init, name=name)()
            for name in (("gate", "up") if self.gated else ("up",))
        }
        kernels["down"] = ExpertKernels(narrow, ("experts", "mlp", "expert_embed"), self.out_init, name="down")()
        x_BTD, activation = x_BTD.astype(self.dtype), ACTIVATIONS[self.activation]
        capacity = config.capacity(x_BTD.shape[1])
        if capacity is None:
            y_BTD = dropless(x_BTD, *choice, kernels, activation)
        else:
            y_BTD, dropped = limited(x_BTD, *choice, kernels, activation, capacity)
            sums = sums.replace(dropped=dropped)
        if config.shared_experts:
            shared = (GatedMLP if self.gated else MLP)(
                config.shared_experts * config.mlp_width,
                self.activation,
                self.dtype,
                use_bias=False,
                kernel_init=self.kernel_init,
                out_init=self.out_init,
                name="shared",
            )
            y_BTD += shared(x_BTD, deterministic=deterministic)
        return constrain(y_BTD, *RESIDUAL), {"/".join(self.path): sums}


class Router(nn.Module):
    """Scores of experts, in float32 whatever the compute dtype: their differences decide."""

    config: ExpertsConfig
    kernel_init: Initializer

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        """Returns float32 logits, [B, T, E], and the biases of the choice [E] where there are any."""
        experts = self.config.num_experts
        # Not split over the experts' devices: each token's scores are compared with each other.
        kernel_DE = parameter(self, "kernel", self.kernel_init, ("embed", "out"), (x_BTD.shape[-1], experts))
        # By default a TPU multiplies float32 in bfloat16, and a GPU in TF32.
        logits_BTE = jnp.matmul(x_BTD.astype(jnp.float32), kernel_DE, precision=jax.lax.Precision.HIGHEST)
        bias_E = None
        if self.config.selection_bias:
            bias_E = parameter(self, "bias", nn.initializers.zeros_init(), ("out",), (experts,))
        return constrain(logits_BTE, "activation_batch", "activation_length", None), bias_E


class ExpertKernels(nn.Module):
    """A matrix of every expert, stacked."""

    shape: tuple[int, int, int]
    names: tuple[str, str, str]
    init: Initializer

    @nn.compact
    def __call__(self) -> Matrices:
        """Returns the matrices [E, ...], with an adapter's factors where there are some."""
        kernel = held(self, "kernel", self.init, self.names, self.shape)
        return Matrices(kernel, *(beside(self, kernel, stacked=1) or ()))
