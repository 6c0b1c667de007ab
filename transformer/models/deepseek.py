"""DeepSeek-V3: pre-norm blocks of latent attention, dense at first, then with experts.

DeepSeek-AI 2024, "DeepSeek-V3 technical report", section 2.1 and section 4.2 (sizes). Its extra layer that predicts a
second token (section 2.2) is no part of the model here.

Shape letters: B batch, T length, D model width.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn

from transformer import checks
from transformer.layers.execution import Execution
from transformer.layers.experts_config import ExpertsConfig
from transformer.layers.latent_attention import LatentAttention
from transformer.layers.mixed import Layout
from transformer.layers.mlp import GatedMLP
from transformer.layers.positions import Rotary, YarnScaling
from transformer.models.pre_norm import PreNormBackbone, PreNormBlock, PreNormConfig

_LATENT_EPSILON = 1e-6
"""Epsilon of the latents' norms, whatever the others have: neither DeepSeek's code nor Transformers' configures it."""

V3_EXPERTS = ExpertsConfig(
    num_experts=256,
    experts_per_token=8,
    mlp_width=2048,
    scores="sigmoid",
    normalize=True,
    scale=2.5,
    groups=8,
    groups_per_token=4,
    selection_bias=True,
    shared_experts=1,
)
"""The experts of DeepSeek-V3."""


@dataclasses.dataclass(frozen=True)
class DeepseekConfig(PreNormConfig):
    """A model of DeepSeek-V3's kind; the defaults are its own in pretraining (671,026,419,200 parameters)."""

    family: ClassVar[str] = "deepseek"

    vocab_size: int = 129280
    """Words."""
    context_length: int = 4096
    """The most tokens that the model is made for; no parameter depends on it. (Published files have 163,840, with a
    `rotary_scaling` by 40.)"""
    width: int = 7168
    """Model width: of the residual stream."""
    num_layers: int = 61
    """Blocks."""
    num_heads: int = 128
    """Attention heads."""
    norm_epsilon: float = 1e-6
    """Added to the mean square in RMSNorm."""
    activation: str = "silu"
    """Activation of the feed-forward layers' gate: silu, gelu, gelu_tanh or relu."""
    tie_embeddings: bool = False
    """Whether the head multiplies with the embedding, or with a matrix of its own."""
    mlp_width: int = 18432
    """Width of the dense feed-forward layers."""
    query_rank: int | None = 1536
    """Width of the latent that queries are expanded from; None: they are projected from the tokens."""
    latent_width: int = 512
    """Width of the latent that keys and values are expanded from, which is all that a cache holds of them."""
    head_width: int = 128
    """Width of the part of a head's queries and keys that no position turns."""
    rotary_width: int = 64
    """Width of the part that is turned, even; its key is one for all heads."""
    value_width: int = 128
    """Width of a head's values."""
    rotary_base: float = 10000.0
    """Base of the wavelengths of rotary positions."""
    rotary_scaling: YarnScaling | None = None
    """How the wavelengths are stretched to a longer context; None leaves them."""
    rotary_interleaved: bool = True
    """Whether neighbours are turned together, (0, 1), (2, 3), ..., or the halves, (0, R / 2), ..."""
    attention_dropout: float = 0.0
    """Probability of dropping attention probabilities."""
    experts: ExpertsConfig = V3_EXPERTS
    """The experts of all layers but the first ones."""
    first_dense: int = 3
    """Layers at the beginning whose feed-forward layers are dense."""

    def __post_init__(self):
        super().__post_init__()
        checks.at_least(self, 1, "mlp_width", "query_rank", "latent_width", "head_width", "value_width")
        checks.rule(self, "rotary_width", self.rotary_width > 0 and self.rotary_width % 2 == 0, "it must be even")
        checks.above(self, 0, "rotary_base")
        checks.within(self, "[0, 1)", "attention_dropout")
        sparse = 0 <= self.first_dense < self.num_layers
        checks.rule(self, "first_dense", sparse, f"some of the {self.num_layers} layers must have experts")

    @property
    def routing(self) -> ExpertsConfig:
        """The experts that stand in the place of feed-forward layers."""
        return self.experts

    @property
    def layout(self) -> Layout:
        """Which stacks hold the layers."""
        return Layout.of([layer >= self.first_dense for layer in range(self.num_layers)])

    @property
    def fewest_layers(self) -> int:
        """The least number of layers that has every kind."""
        return self.first_dense + 1

    @property
    def cache_heads(self) -> tuple[int, int]:
        """One, and the width of the latents."""
        return 1, self.latent_width

    @property
    def cache_value_width(self) -> int:
        """Width of the turned keys."""
        return self.rotary_width

    @property
    def score_scale(self) -> float:
        """What attention multiplies its scores with."""
        magnitude = 1.0 if self.rotary_scaling is None else self.rotary_scaling.score_magnitude
        return (self.head_width + self.rotary_width) ** -0.5 * magnitude

    def backbone(self, execution: Execution) -> "DeepseekBackbone":
        """Returns the model below its head."""
        return DeepseekBackbone(self, execution)


class DeepseekBlock(PreNormBlock):
    """A pre-norm block of latent attention and a gated MLP."""

    config: DeepseekConfig

    @nn.nowrap
    def attention(self) -> LatentAttention:
        """Returns the module of attention."""
        config = self.config
        return LatentAttention(
            config.width,
            config.num_heads,
            config.query_rank,
            config.latent_width,
            config.head_width,
            config.rotary_width,
            config.value_width,
            _LATENT_EPSILON,
            self.execution,
            Rotary(config.rotary_base, config.rotary_scaling, config.rotary_interleaved),
            config.score_scale,
            config.attention_dropout,
            name="attention",
        )

    @nn.nowrap
    def dense(self) -> GatedMLP:
        """Returns the feed-forward layer of one of the first layers."""
        config = self.config
        return GatedMLP(config.mlp_width, config.activation, self.execution.compute_dtype, name="mlp")


class DeepseekBackbone(PreNormBackbone):
    """The backbone of such blocks."""

    block: ClassVar[type[PreNormBlock]] = DeepseekBlock
