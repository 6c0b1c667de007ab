"""What a mixture of experts is: how many, how wide, and how tokens choose among them."""

import dataclasses
from typing import Literal

from transformer import checks


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
        more = f"`groups_per_token` {self.groups_per_token} is more than `groups` {self.groups}"
        checks.require(self, grouped, more)
        reached = self.num_experts // self.groups * self.groups_per_token
        fits = self.experts_per_token <= reached
        checks.rule(self, "experts_per_token", fits, f"a token can reach {reached} of `num_experts` {self.num_experts}")

    def capacity(self, length: int) -> int | None:
        """Returns the choices that an expert takes of a row of so many tokens; None: all."""
        if self.capacity_factor is None:
            return None
        even = self.experts_per_token * length / self.num_experts
        return max(1, min(length, round(self.capacity_factor * even)))
