"""The post-norm blocks of Vaswani et al. 2017, figure 1: what the first Transformer, GPT-1, BERT and BART are made of.

Families whose equations differ (pre-norm, parallel, gated) write their own blocks.

Shape letters: B batch, T length, S length of the encoder's sequence, D model width.
"""

import dataclasses

import flax.linen as nn
import jax

from transformer.layers.attention import Attention, KeysValues
from transformer.layers.cache import DecoderLayerCache, LayerCache
from transformer.layers.execution import Execution, LayerOutput
from transformer.layers.experts import Experts
from transformer.layers.experts_config import ExpertsConfig
from transformer.layers.mlp import MLP
from transformer.layers.primitives import Dropout, Initializer, LayerNorm
from transformer.layers.routing import Routers
from transformer.ops.attention import Mask
from transformer.parallel.rules import RESIDUAL, constrain

NewMemories = tuple[KeysValues, KeysValues | None]
"""Keys and values of a decoder's new tokens and, where they were computed just now, of the encoder's output."""


@dataclasses.dataclass(frozen=True)
class BlockSizes:
    """The sizes of a post-norm block, and what else its equation leaves open."""

    width: int
    num_heads: int
    mlp_width: int
    activation: str
    norm_epsilon: float
    dropout: float = 0.0
    """Probability of dropping sublayer outputs."""
    attention_dropout: float = 0.0
    """Probability of dropping attention probabilities."""
    mlp_dropout: float = 0.0
    """Probability of dropping the feed-forward layers' hidden values."""
    init: Initializer = nn.initializers.normal(0.02)
    """How every matrix starts."""
    experts: ExpertsConfig | None = None
    """Experts in the place of the feed-forward layers."""

    def attention(self, execution: Execution, name: str) -> Attention:
        """Returns the attention of such a block."""
        return Attention(
            self.width,
            self.num_heads,
            self.width // self.num_heads,
            execution,
            dropout=self.attention_dropout,
            kernel_init=self.init,
            out_init=self.init,
            name=name,
        )


class _PostNorm(nn.Module):
    """What the blocks of both sides share. Its methods make submodules of the block whose `__call__` calls them."""

    sizes: BlockSizes
    execution: Execution

    @nn.nowrap
    def add_and_norm(self, name: str, x_BTD: jax.Array, out_BTD: jax.Array, deterministic: bool) -> jax.Array:
        """Returns norm(x + dropout(out)), [B, T, D]; `name` is the norm's."""
        out_BTD = Dropout(self.sizes.dropout)(out_BTD, deterministic=deterministic)
        norm = LayerNorm(self.sizes.norm_epsilon, self.execution.compute_dtype, name=name)
        return constrain(norm(x_BTD + out_BTD), *RESIDUAL)

    @nn.nowrap
    def feed_forward(self, x_BTD: jax.Array, mask: Mask, deterministic: bool) -> tuple[jax.Array, Routers]:
        """Returns norm(x + mlp(x)), [B, T, D], and the sums of experts' routers."""
        sizes, dtype = self.sizes, self.execution.compute_dtype
        if sizes.experts is None:
            mlp = MLP(
                sizes.mlp_width,
                sizes.activation,
                dtype,
                kernel_init=sizes.init,
                out_init=sizes.init,
                dropout=sizes.mlp_dropout,
                name="mlp",
            )
            out_BTD, routers = mlp(x_BTD, deterministic=deterministic), {}
        else:
            experts = Experts(sizes.experts, sizes.activation, dtype, False, sizes.init, sizes.init, name="mlp")
            out_BTD, routers = experts(x_BTD, mask.q_segment_ids_BT, deterministic=deterministic)
        return self.add_and_norm("mlp_norm", x_BTD, out_BTD, deterministic), routers


class PostNormBlock(_PostNorm):
    """norm(x + attention(x)), then norm(x + mlp(x)); an encoder's or, with a causal mask, a decoder's."""

    @nn.compact
    def __call__(
        self, x_BTD: jax.Array, cache: LayerCache | None, mask: Mask, *, deterministic: bool
    ) -> tuple[jax.Array, LayerOutput]:
        """Returns [B, T, D] and, with a cache, this layer's new keys and values."""
        attention = self.sizes.attention(self.execution, "attention")
        attended_BTD, new = attention(x_BTD, mask, cache=cache, deterministic=deterministic)
        x_BTD = self.add_and_norm("attention_norm", x_BTD, attended_BTD, deterministic)
        x_BTD, routers = self.feed_forward(x_BTD, mask, deterministic)
        return x_BTD, LayerOutput(new, routers)


class PostNormDecoderBlock(_PostNorm):
    """norm(x + attention(x)), norm(x + attention over the encoder's output), norm(x + mlp(x))."""

    @nn.compact
    def __call__(
        self,
        x_BTD: jax.Array,
        cache: DecoderLayerCache | None,
        mask: Mask,
        memory_BSD: jax.Array | None,
        memory_mask: Mask,
        *,
        deterministic: bool,
    ) -> tuple[jax.Array, LayerOutput]:
        """Returns [B, T, D] and, with a cache, the new tokens' keys and values and those of the encoder's output.

        Args:
          x_BTD: the decoder's tokens.
          cache: of earlier tokens.
          mask: over the decoder's tokens or the cache's slots.
          memory_BSD: the encoder's output; None where the cache holds its keys and values.
          memory_mask: over the encoder's tokens.
          deterministic: no dropout.
        """
        own = None if cache is None else cache.own
        attention = self.sizes.attention(self.execution, "attention")
        attended_BTD, new = attention(x_BTD, mask, cache=own, deterministic=deterministic)
        x_BTD = self.add_and_norm("attention_norm", x_BTD, attended_BTD, deterministic)

        cross = self.sizes.attention(self.execution, "cross_attention")
        memory = memory_keys_values(cross, memory_BSD, cache)
        attended_BTD = cross.attend(x_BTD, memory, memory_mask, deterministic=deterministic)
        x_BTD = self.add_and_norm("cross_attention_norm", x_BTD, attended_BTD, deterministic)
        x_BTD, routers = self.feed_forward(x_BTD, mask, deterministic)
        return x_BTD, LayerOutput(to_cache(new, memory, memory_BSD), routers)


def memory_keys_values(cross: Attention, memory_BSD: jax.Array | None, cache: DecoderLayerCache | None) -> KeysValues:
    """Returns cross-attention's keys and values: of the encoder's output, or those that the cache kept of it."""
    if memory_BSD is not None:
        return cross.keys_values(memory_BSD)
    if cache is None or cache.memory is None:
        raise ValueError("a decoder needs the encoder's output, or a cache of its keys and values")
    return cache.memory


def to_cache(new: KeysValues | None, memory: KeysValues, memory_BSD: jax.Array | None) -> NewMemories | None:
    """Returns what a decoder's layer hands back where it has a cache (`new` is there): what the cache lacks so far."""
    return None if new is None else (new, None if memory_BSD is None else memory)
