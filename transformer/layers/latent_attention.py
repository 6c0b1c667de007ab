"""Multi-head latent attention: keys and values of all heads expanded from one narrow latent a token.

DeepSeek-AI 2024, "DeepSeek-V2", section 2.1, and "DeepSeek-V3", section 2.1.1.

A cache holds the latents and the one turned key that all heads share, C + R numbers a token instead of H (K + V). With
it the expansion moves to the other side of each product (section 2.1.2: "W^UK can be absorbed into W^Q"): queries are
compared with latents, and the mixed latents expanded, so that no step of decoding expands what is cached.

Shape letters: B batch, T query length, S key length, D model width, H heads, K width of a head's queries and keys that
no position turns, R width of the part that is turned, V width of a head's values, C width of the latent.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.layers.attention import attend_on_mesh
from transformer.layers.cache import KeysValues, LayerCache
from transformer.layers.execution import Execution
from transformer.layers.positions import Rotary
from transformer.layers.primitives import Linear, RMSNorm, linear, parameter
from transformer.ops.attention import Mask
from transformer.parallel.rules import constrain

_HEADS = ("activation_batch", "activation_length", "activation_heads", "activation_head")
_LATENT = ("activation_batch", "activation_length", None, None)
_INIT = nn.initializers.normal(0.02)


class LatentAttention(nn.Module):
    """Causal self-attention over latents."""

    width: int
    """Model width D, of the output."""
    num_heads: int
    query_rank: int | None
    """Width of the latent that queries are expanded from; None: they are projected from the tokens."""
    latent_width: int
    """C."""
    head_width: int
    """K."""
    rotary_width: int
    """R."""
    value_width: int
    """V."""
    norm_epsilon: float
    """Added to the mean square in the latents' RMSNorms."""
    execution: Execution
    rotary: Rotary
    scale: float
    """What the scores are multiplied with."""
    dropout: float = 0.0
    """Probability of dropping attention probabilities."""

    def setup(self):
        dtype = self.execution.compute_dtype
        if self.query_rank is not None:
            self.query_latent = Linear((self.query_rank,), ("embed", "latent"), dtype, False, _INIT)
            self.query_latent_norm = RMSNorm(self.norm_epsilon, dtype)
        heads = (self.num_heads, self.head_width + self.rotary_width)
        self.query = Linear(heads, ("embed", "heads", "head"), dtype, False, _INIT)
        self.latent = Linear((self.latent_width,), ("embed", "latent"), dtype, False, _INIT)
        self.rotary_key = Linear((self.rotary_width,), ("embed", "latent"), dtype, False, _INIT)
        self.latent_norm = RMSNorm(self.norm_epsilon, dtype)
        self.expansion = Expansion(self.num_heads, self.latent_width, self.head_width, self.value_width)
        self.out = Linear((self.width,), ("heads", "head", "embed"), dtype, False, _INIT)

    def __call__(
        self,
        x_BTD: jax.Array,
        mask: Mask,
        *,
        positions_BT: jax.Array,
        cache: LayerCache | None = None,
        deterministic: bool = True,
    ) -> tuple[jax.Array, KeysValues | None]:
        """Returns [B, T, D] and, with a cache, the new tokens' latents and turned keys to write into it.

        Args:
          x_BTD: the tokens.
          mask: over the tokens themselves or, with a cache, over its slots.
          positions_BT: int32.
          cache: latents [B, S, 1, C] of earlier tokens, in the place of keys, and their turned keys [B, S, 1, R], in
            the place of values.
          deterministic: no dropout.
        """
        compressed_BTQ = x_BTD
        if self.query_rank is not None:
            compressed_BTQ = self.query_latent_norm(self.query_latent(x_BTD))
        plain_BTHK, turned_BTHR = jnp.split(self.query(compressed_BTQ), [self.head_width], axis=-1)
        turned_BTHR = self.rotary(turned_BTHR, positions_BT)
        latent_BT1C = constrain(self.latent_norm(self.latent(x_BTD))[:, :, None], *_LATENT)
        key_BT1R = constrain(self.rotary(self.rotary_key(x_BTD)[:, :, None], positions_BT), *_LATENT)
        if cache is None:
            key_BTHK, value_BTHV = self.expansion(latent_BT1C[:, :, 0])
            shared_BTHR = jnp.broadcast_to(key_BT1R, (*key_BTHK.shape[:-1], self.rotary_width))
            out_BTHV = self._attend((plain_BTHK, turned_BTHR), (key_BTHK, shared_BTHR), value_BTHV, mask, deterministic)
        else:
            latent_BS1C, key_BS1R = cache.extended(latent_BT1C, key_BT1R)
            queries = self.expansion.absorbed(plain_BTHK), turned_BTHR
            mixed_BTHC = self._attend(queries, (latent_BS1C, key_BS1R), latent_BS1C, mask, deterministic)
            out_BTHV = self.expansion.values(mixed_BTHC)
        return self.out(constrain(out_BTHV, *_HEADS)), None if cache is None else (latent_BT1C, key_BT1R)

    @nn.nowrap
    def _attend(
        self, queries: KeysValues, keys: KeysValues, values: jax.Array, mask: Mask, deterministic: bool
    ) -> jax.Array:
        """Returns [B, T, H, width of the values]; the parts of queries and of keys lie side by side."""
        rate = 0.0 if deterministic else self.dropout
        query, key = jnp.concatenate(queries, axis=-1), jnp.concatenate(keys, axis=-1)
        return attend_on_mesh(
            self.execution,
            constrain(query, *_HEADS),
            constrain(key, *(_HEADS if key.shape[2] > 1 else _LATENT)),
            values,
            mask,
            scale=self.scale,
            dropout_rate=rate,
            dropout_key=self.make_rng("dropout") if rate else None,
        )


class Expansion(nn.Module):
    """The matrix [C, H, K + V] from latents to the keys and values of all heads, which either side can be given."""

    num_heads: int
    latent_width: int
    head_width: int
    value_width: int

    def setup(self):
        shape = (self.latent_width, self.num_heads, self.head_width + self.value_width)
        self.kernel = parameter(self, "kernel", _INIT, ("embed", "heads", "head"), shape)

    def __call__(self, latent_BSC: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns keys [B, S, H, K] and values [B, S, H, V]."""
        both_BSHX = constrain(linear(latent_BSC, self.kernel, None, 1), *_HEADS)
        key_BSHK, value_BSHV = jnp.split(both_BSHX, [self.head_width], axis=-1)
        return key_BSHK, value_BSHV

    def absorbed(self, query_BTHK: jax.Array) -> jax.Array:
        """Returns [B, T, H, C]: what multiplies latents as the queries multiply the keys expanded from them."""
        kernel_CHK = self.kernel[..., : self.head_width].astype(query_BTHK.dtype)
        return jnp.einsum("BTHK,CHK->BTHC", query_BTHK, kernel_CHK)

    def values(self, mixed_BTHC: jax.Array) -> jax.Array:
        """Returns [B, T, H, V]: values, from latents mixed by each head's attention."""
        kernel_CHV = self.kernel[..., self.head_width :].astype(mixed_BTHC.dtype)
        return jnp.einsum("BTHC,CHV->BTHV", mixed_BTHC, kernel_CHV)
