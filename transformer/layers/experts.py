"""A mixture of experts in the place of a feed-forward layer: each token goes through the few experts that it chooses.

Shazeer et al. 2017, "Outrageously large neural networks"; Lepikhin et al. 2021, "GShard" (capacity); Fedus et al. 2022,
"Switch Transformers"; Gale et al. 2023, "MegaBlocks" (dropless); DeepSeek-AI 2024, "DeepSeek-V3" (groups, biases).

Shape letters: B batch, T length, D model width, E experts, K experts of a token, F MLP width of an expert, C capacity.
"""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer import checks
from transformer.layers.capacity import limited
from transformer.layers.mlp import MLP, GatedMLP
from transformer.layers.primitives import Initializer, parameter
from transformer.layers.routing import Routers, choose
from transformer.ops.elementwise import ACTIVATIONS
from transformer.parallel.experts import dropless
from transformer.parallel.rules import RESIDUAL, constrain


@dataclasses.dataclass(frozen=True)
class ExpertsConfig:
    """The experts that stand in the place of each feed-forward layer, and how tokens choose among them."""

    num_experts: int = 8
    """Experts of a layer."""
    experts_per_token: int = 2
    """Experts that a token goes to."""
    mlp_width: int = 2048
    """Width of an expert's feed-forward layers."""
    scores: Literal["softmax", "sigmoid"] = "softmax"
    """What makes scores of the router's logits: their softmax over all experts, or each one's sigmoid (DeepSeek-V3)."""
    normalize: bool = True
    """Whether a token's weights, the scores of its experts, are divided by their sum (Mixtral, `norm_topk_prob`)."""
    scale: float = 1.0
    """What the weights are then multiplied with (`routed_scaling_factor`)."""
    groups: int = 1
    """Groups of experts; a token chooses within its best ones, by the sum of their best two scores (DeepSeek-V3)."""
    groups_per_token: int = 1
    """Groups that a token chooses within."""
    selection_bias: bool = False
    """Whether each expert has a bias that is added to its score for the choice alone. After each update it rises by
    `bias_rate` where the expert had fewer tokens than the mean, and falls where it had more (DeepSeek-V3)."""
    bias_rate: float = 1e-3
    """How far the biases move in an update."""
    shared_experts: int = 0
    """Experts that every token goes to besides: one feed-forward layer of so many times the width."""
    capacity_factor: float | None = None
    """An expert takes this many times its even share of each row's choices, and drops the rest: those tokens pass by it
    (Switch Transformers). None: it takes all (dropless)."""
    balance_loss: float = 0.0
    """Coefficient of the load-balance loss, the mean over layers (Mixtral: 0.02; Switch Transformers: 0.01)."""
    z_loss: float = 0.0
    """Coefficient of the router's z-loss, the mean over layers (ST-MoE: 0.001)."""

    def __post_init__(self) -> None:
        checks.at_least(self, 1, "num_experts", "experts_per_token", "mlp_width", "groups", "groups_per_token")
        checks.at_least(self, 0, "shared_experts", "bias_rate", "balance_loss", "z_loss")
        checks.above(self, 0, "scale", "capacity_factor")
        checks.divides(self, "groups", "num_experts")
        grouped = self.groups_per_token <= self.groups
        checks.require(self, grouped, f"`groups_per_token` {self.groups_per_token} of `groups` {self.groups}")
        reached = self.num_experts // self.groups * self.groups_per_token
        fits = self.experts_per_token <= reached
        checks.rule(self, "experts_per_token", fits, f"a token can reach {reached} of `num_experts` {self.num_experts}")

    def capacity(self, length: int) -> int | None:
        """Returns the choices that an expert takes of a row of so many tokens; None: all."""
        if self.capacity_factor is None:
            return None
        even = self.experts_per_token * length / self.num_experts
        return max(1, min(length, round(self.capacity_factor * even)))


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
    def __call__(self) -> jax.Array:
        """Returns float32 [E, ...]."""
        return parameter(self, "kernel", self.init, self.names, self.shape)
