"""The pre-norm blocks of encoders and decoders with LayerNorm: what ViT, CLIP and Whisper are made of.

Families whose equations differ (root-mean-square norms, parallel or gated layers) write their own blocks.

Shape letters: B batch, T length, S length of the encoder's sequence, D model width.
"""

import dataclasses

import flax.linen as nn
import jax

from transformer.layers.attention import Attention
from transformer.layers.blocks import memory_keys_values, to_cache
from transformer.layers.cache import DecoderLayerCache, LayerCache
from transformer.layers.execution import Execution, LayerOutput
from transformer.layers.mlp import MLP
from transformer.layers.primitives import Dropout, Initializer, LayerNorm, LayerScale
from transformer.ops.attention import Mask
from transformer.parallel.rules import RESIDUAL, constrain


@dataclasses.dataclass(frozen=True)
class NormFirstSizes:
    """The sizes of a pre-norm block, and what else its equation leaves open."""

    width: int
    num_heads: int
    mlp_width: int
    activation: str
    norm_epsilon: float
    biases: frozenset[str] = frozenset({"query", "key", "value", "out"})
    """The projections of attention that have a bias."""
    layer_scale: float | None = None
    """What the vectors that multiply sublayers' outputs start at (Touvron et al. 2021, "Going deeper with image
    Transformers", section 2.1); None: there are none."""
    dropout: float = 0.0
    """Probability of dropping sublayer outputs."""
    attention_dropout: float = 0.0
    """Probability of dropping attention probabilities."""
    mlp_dropout: float = 0.0
    """Probability of dropping the feed-forward layers' hidden values."""
    init: Initializer = nn.initializers.normal(0.02)
    """How every matrix starts."""


class _NormFirst(nn.Module):
    """What the blocks of both sides share. Its methods make submodules of the block whose `__call__` calls them."""

    sizes: NormFirstSizes
    execution: Execution

    @nn.nowrap
    def attention(self, name: str) -> Attention:
        """Returns an attention of the block's sizes."""
        sizes = self.sizes
        return Attention(
            sizes.width,
            sizes.num_heads,
            sizes.width // sizes.num_heads,
            self.execution,
            biases=sizes.biases,
            dropout=sizes.attention_dropout,
            kernel_init=sizes.init,
            out_init=sizes.init,
            name=name,
        )

    @nn.nowrap
    def normed(self, name: str, x_BTD: jax.Array) -> jax.Array:
        """Returns the norm of a sublayer's input, [B, T, D]; `name` is the sublayer's."""
        return LayerNorm(self.sizes.norm_epsilon, self.execution.compute_dtype, name=f"{name}_norm")(x_BTD)

    @nn.nowrap
    def added(self, name: str, x_BTD: jax.Array, out_BTD: jax.Array, deterministic: bool) -> jax.Array:
        """Returns x + scale * dropout(out), [B, T, D]; `name` is the sublayer's."""
        if self.sizes.layer_scale is not None:
            out_BTD = LayerScale(self.sizes.layer_scale, name=f"{name}_scale")(out_BTD)
        return constrain(x_BTD + Dropout(self.sizes.dropout)(out_BTD, deterministic=deterministic), *RESIDUAL)

    @nn.nowrap
    def feed_forward(self, x_BTD: jax.Array, deterministic: bool) -> jax.Array:
        """Returns x + mlp(norm(x)), [B, T, D]."""
        sizes, dtype = self.sizes, self.execution.compute_dtype
        mlp = MLP(
            sizes.mlp_width,
            sizes.activation,
            dtype,
            kernel_init=sizes.init,
            out_init=sizes.init,
            dropout=sizes.mlp_dropout,
            name="mlp",
        )
        out_BTD = mlp(self.normed("mlp", x_BTD), deterministic=deterministic)
        return self.added("mlp", x_BTD, out_BTD, deterministic)


class NormFirstBlock(_NormFirst):
    """x + attention(norm(x)), then x + mlp(norm(x)); an encoder's or, with a causal mask, a decoder's."""

    @nn.compact
    def __call__(
        self, x_BTD: jax.Array, cache: LayerCache | None, mask: Mask, *, deterministic: bool
    ) -> tuple[jax.Array, LayerOutput]:
        """Returns [B, T, D] and, with a cache, this layer's new keys and values."""
        attention = self.attention("attention")
        attended_BTD, new = attention(self.normed("attention", x_BTD), mask, cache=cache, deterministic=deterministic)
        x_BTD = self.added("attention", x_BTD, attended_BTD, deterministic)
        return self.feed_forward(x_BTD, deterministic), LayerOutput(new)


class NormFirstDecoderBlock(_NormFirst):
    """x + attention(norm(x)), x + attention(norm(x)) over the encoder's output, x + mlp(norm(x))."""

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

        Args as `blocks.PostNormDecoderBlock.__call__`'s.
        """
        own = None if cache is None else cache.own
        attention = self.attention("attention")
        attended_BTD, new = attention(self.normed("attention", x_BTD), mask, cache=own, deterministic=deterministic)
        x_BTD = self.added("attention", x_BTD, attended_BTD, deterministic)

        cross = self.attention("cross_attention")
        memory = memory_keys_values(cross, memory_BSD, cache)
        normed_BTD = self.normed("cross_attention", x_BTD)
        attended_BTD = cross.attend(normed_BTD, memory, memory_mask, deterministic=deterministic)
        x_BTD = self.added("cross_attention", x_BTD, attended_BTD, deterministic)
        return self.feed_forward(x_BTD, deterministic), LayerOutput(to_cache(new, memory, memory_BSD))
