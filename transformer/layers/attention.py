"""Multi-head and grouped-query attention, over oneself or over another sequence, with or without a cache.

Shape letters: B batch, T query length, S key length, D model width, H heads, G key-value heads, K head width.
"""

from typing import Any, Literal

import flax.linen as nn
import jax

from transformer.layers.cache import KeysValues, LayerCache
from transformer.layers.execution import Execution, show
from transformer.layers.positions import Rotary
from transformer.layers.primitives import Initializer, Linear, RMSNorm
from transformer.ops.attention import Mask, attention
from transformer.parallel.context import attention_in_context
from transformer.parallel.rules import constrain, on_one_device

_HEADS = ("activation_batch", "activation_length", "activation_heads", "activation_head")
_KV_HEADS = ("activation_batch", "activation_length", "activation_kv_heads", "activation_head")


class Attention(nn.Module):
    """Attention with its four projections: Vaswani et al. 2017, section 3.2.2; with G < H, Ainslie et al. 2023."""

    width: int
    """Model width D, of the output."""
    num_heads: int
    head_width: int
    execution: Execution
    num_kv_heads: int | None = None
    """Key-value heads, a divisor of `num_heads`; None: as many as `num_heads`."""
    biases: frozenset[str] = frozenset({"query", "key", "value", "out"})
    """The projections that have a bias."""
    head_norm_epsilon: float | None = None
    """Epsilon of the RMSNorms over each head of queries and keys, before they are turned (Qwen3); None: no norms."""
    rotary: Rotary | None = None
    """Turns queries and keys by their positions."""
    scale: float | None = None
    """What the scores are multiplied with; None: head_width ** -0.5."""
    dropout: float = 0.0
    """Probability of dropping attention probabilities."""
    kernel_init: Initializer = nn.initializers.normal(0.02)
    out_init: Initializer = nn.initializers.normal(0.02)
    query_init: Initializer | None = None
    """None: `kernel_init`."""

    def setup(self):
        def heads(name: str, count: int, axis: str) -> Linear:
            init = self.query_init if name == "query" and self.query_init is not None else self.kernel_init
            return Linear((count, self.head_width), ("embed", axis, "head"), dtype, name in self.biases, init)

        dtype: Any = self.execution.compute_dtype
        groups = self.num_kv_heads or self.num_heads
        self.query = heads("query", self.num_heads, "heads")
        self.key = heads("key", groups, "kv_heads")
        self.value = heads("value", groups, "kv_heads")
        self.out = Linear((self.width,), ("heads", "head", "embed"), dtype, "out" in self.biases, self.out_init)
        if self.head_norm_epsilon is not None:
            self.query_norm = RMSNorm(self.head_norm_epsilon, dtype)
            self.key_norm = RMSNorm(self.head_norm_epsilon, dtype)

    def __call__(
        self,
        x_BTD: jax.Array,
        mask: Mask,
        *,
        positions_BT: jax.Array | None = None,
        cache: LayerCache | None = None,
        bias: jax.Array | None = None,
        scale: jax.Array | None = None,
        deterministic: bool = True,
    ) -> tuple[jax.Array, KeysValues | None]:
        """Returns [B, T, D] of self-attention and, with a cache, the new tokens' keys and values to write into it.

        Args:
          x_BTD: the tokens.
          mask: over the tokens themselves or, with a cache, over its slots.
          positions_BT: int32, for rotary attention.
          cache: keys and values of earlier tokens.
          bias: added to the scores, broadcastable to [B, H, T, S].
          scale: what the scores are multiplied with, float32 scalar, where it is data (a layer's own); None: the
            module's.
          deterministic: no dropout.
        """
        new = self.keys_values(x_BTD, positions_BT)
        every = new if cache is None else cache.extended(*new)
        out_BTD = self.attend(
            x_BTD, every, mask, positions_BT=positions_BT, bias=bias, scale=scale, deterministic=deterministic
        )
        return out_BTD, None if cache is None else new

    def keys_values(self, x_BSD: jax.Array, positions_BS: jax.Array | None = None) -> KeysValues:
        """Returns keys and values, each [B, S, G, K]. An encoder's output is projected once, then attended to often."""
        key_BSGK = self.projected("key", x_BSD)
        if self.rotary is not None:
            key_BSGK = self.rotary(key_BSGK, _needed(positions_BS))
        return key_BSGK, self.projected("value", x_BSD)

    def projected(self, name: Literal["query", "key", "value"], x_BTD: jax.Array) -> jax.Array:
        """Returns queries, keys or values before they are turned, [B, T, H or G, K]."""
        linear, axes = {
            "query": (self.query, _HEADS), "key": (self.key, _KV_HEADS), "value": (self.value, _KV_HEADS),
        }[name]  # fmt: skip
        heads_BTHK = constrain(linear(x_BTD), *axes)
        if self.head_norm_epsilon is None or name == "value":
            return heads_BTHK
        return (self.query_norm if name == "query" else self.key_norm)(heads_BTHK)

    def attend(
        self,
        x_BTD: jax.Array,
        keys_values: KeysValues,
        mask: Mask,
        *,
        positions_BT: jax.Array | None = None,
        bias: jax.Array | None = None,
        scale: jax.Array | None = None,
        deterministic: bool = True,
    ) -> jax.Array:
        """Returns [B, T, D]: the queries of `x_BTD` over given keys and values, as in cross-attention."""
        query_BTHK = self.projected("query", x_BTD)
        if self.rotary is not None:
            query_BTHK = self.rotary(query_BTHK, _needed(positions_BT))
        show(self, "attended", "queries", query_BTHK)
        show(self, "attended", "keys", keys_values[0])
        rate = 0.0 if deterministic else self.dropout
        out_BTHK = attend_on_mesh(
            self.execution,
            query_BTHK,
            *keys_values,
            mask,
            bias=bias,
            scale=self.scale if scale is None else scale,
            dropout_rate=rate,
            dropout_key=self.make_rng("dropout") if rate else None,
        )
        return self.out(constrain(out_BTHK, *_HEADS))


def attend_on_mesh(execution: Execution, *arrays_and_mask: Any, **options: Any) -> jax.Array:
    """Returns `ops.attention.attention` of such arguments, by the implementation and the context that were chosen."""
    options["implementation"] = execution.attention
    if on_one_device():
        return attention(*arrays_and_mask, **options)
    return attention_in_context(*arrays_and_mask, context=execution.context, **options)


def _needed(positions: jax.Array | None) -> jax.Array:
    if positions is None:
        raise ValueError("rotary attention needs positions")
    return positions
