"""Pre-norm decoders whose layers are of two kinds, dense or with experts: what LLaMA, OLMoE and DeepSeek-V3 share.

Shape letters: B batch, T length, D model width.
"""

import abc
import dataclasses
import functools
from typing import Any, ClassVar

import flax.linen as nn
import jax

from transformer.layers.cache import LayerCache
from transformer.layers.execution import Execution, LayerOutput
from transformer.layers.experts import Experts
from transformer.layers.mixed import Layout
from transformer.layers.mlp import GatedMLP
from transformer.layers.primitives import Embedding, RMSNorm
from transformer.models.decoder import DecoderConfig
from transformer.ops.attention import Mask
from transformer.parallel.rules import RESIDUAL, constrain


@dataclasses.dataclass(frozen=True)
class PreNormConfig(DecoderConfig):
    """A decoder of such blocks."""

    pre_norm: ClassVar[bool] = True

    @property
    @abc.abstractmethod
    def layout(self) -> Layout:
        """Which stacks hold the layers."""

    @property
    def stacks(self) -> dict[str, int]:
        """Module that holds a stack of layers -> how many."""
        return self.layout.stacks

    @property
    def depth(self) -> int:
        """Layers, of all stacks."""
        return self.num_layers


class PreNormBlock(nn.Module, abc.ABC):
    """x + attention(norm(x)), then x + mlp(norm(x)), with RMSNorm; the feed-forward layer is dense or of experts."""

    config: PreNormConfig
    execution: Execution
    sparse: bool = False
    """Whether the feed-forward layer is one of experts."""

    @nn.compact
    def __call__(
        self, x_BTD: jax.Array, cache: LayerCache | None, mask: Mask, positions_BT: jax.Array, *, deterministic: bool
    ) -> tuple[jax.Array, LayerOutput]:
        """Returns [B, T, D] and, with a cache, what this layer adds to it."""
        config, dtype = self.config, self.execution.compute_dtype
        attention = self.attention()
        normed_BTD = RMSNorm(config.norm_epsilon, dtype, name="attention_norm")(x_BTD)
        attended_BTD, new = attention(
            normed_BTD, mask, positions_BT=positions_BT, cache=cache, deterministic=deterministic
        )
        x_BTD = constrain(x_BTD + attended_BTD, *RESIDUAL)
        normed_BTD = RMSNorm(config.norm_epsilon, dtype, name="mlp_norm")(x_BTD)
        if not self.sparse or config.routing is None:
            out_BTD, routers = self.dense()(normed_BTD, deterministic=deterministic), {}
        else:
            experts = Experts(config.routing, config.activation, dtype, name="mlp")
            out_BTD, routers = experts(normed_BTD, mask.q_segment_ids_BT, deterministic=deterministic)
        return constrain(x_BTD + out_BTD, *RESIDUAL), LayerOutput(new, routers)

    @abc.abstractmethod
    @nn.nowrap
    def attention(self) -> Any:
        """Returns the module of attention, called as `layers.attention.Attention` is."""

    @abc.abstractmethod
    @nn.nowrap
    def dense(self) -> GatedMLP:
        """Returns the feed-forward layer of a layer without experts."""


class PreNormBackbone(nn.Module):
    """An embedding, blocks and a last norm: tokens in, hidden states out."""

    block: ClassVar[type[PreNormBlock]]

    config: PreNormConfig
    execution: Execution

    def setup(self):
        config, dtype = self.config, self.execution.compute_dtype
        self.token_embedding = Embedding(config.vocab_size, config.width, ("vocab", "embed"), dtype)
        self.stack: Any = config.layout.modules(functools.partial(self.block, config, self.execution), self.execution)
        self.final_norm = RMSNorm(config.norm_epsilon, dtype)

    def __call__(
        self, tokens_BT: jax.Array, positions_BT: jax.Array, cache: LayerCache | None, *masks: Mask, deterministic: bool
    ) -> tuple[jax.Array, LayerOutput]:
        """Returns [B, T, D] and, with a cache, what all layers add to it."""
        x_BTD = constrain(self.token_embedding(tokens_BT), *RESIDUAL)
        x_BTD, output = self.config.layout(self.stack, x_BTD, cache, *masks, positions_BT, deterministic=deterministic)
        return self.final_norm(x_BTD), output
