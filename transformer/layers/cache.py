"""The explicit key-value cache of decoding: data in, data out, so that prefill and decode are the same code.

Shape letters: N layers, B batch, S slots, T new tokens, G key-value heads, K head width.
"""

from typing import Any, Self

import jax
import jax.numpy as jnp
from flax import struct

from transformer.ops.attention import Mask

KeysValues = tuple[jax.Array, jax.Array]
"""One layer's keys and values, each [B, S, G, K]."""


class LayerCache(struct.PyTreeNode):
    """One layer's part of a cache, as an attention layer sees it."""

    key_BSGK: jax.Array
    value_BSGK: jax.Array
    index: jax.Array
    """int32 scalar: the slot of the first new token."""

    def extended(self, key_BTGK: jax.Array, value_BTGK: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns all keys and all values [B, S, G, K], the new ones in their slots."""
        at = (0, self.index, 0, 0)
        key_BSGK = jax.lax.dynamic_update_slice(self.key_BSGK, key_BTGK.astype(self.key_BSGK.dtype), at)
        value_BSGK = jax.lax.dynamic_update_slice(self.value_BSGK, value_BTGK.astype(self.value_BSGK.dtype), at)
        return key_BSGK, value_BSGK


class KVCache(struct.PyTreeNode):
    """Keys and values of all layers, and which token each slot holds.

    Every row of the batch fills the same slots, [0, index): prompts of unequal length are padded (segment 0) on the
    left, and padding's slots are never attended to. The caller keeps `index + T <= S`: a full cache has no slot to
    refuse with, and would overwrite its last ones.
    """

    key_NBSGK: jax.Array
    value_NBSGK: jax.Array
    positions_BS: jax.Array
    """int32: the position of each slot's token."""
    segment_ids_BS: jax.Array
    """int32: the segment of each slot's token; 0 is an empty slot or padding."""
    index: jax.Array
    """int32 scalar: the next slot."""

    @classmethod
    def empty(
        cls,
        layers: int,
        batch: int,
        length: int,
        kv_heads: int,
        head_width: int,
        dtype: Any,
        *,
        value_width: int | None = None,
    ) -> Self:
        """Returns a cache of `length` empty slots; `value_width`: that of the values, where it is not the keys'."""
        # Two buffers, not one twice: a jitted step may be given the cache to overwrite (donation).
        shape = (layers, batch, length, kv_heads, head_width)
        ids_BS = (batch, length)
        return cls(
            key_NBSGK=jnp.zeros(shape, dtype),
            value_NBSGK=jnp.zeros((*shape[:-1], head_width if value_width is None else value_width), dtype),
            positions_BS=jnp.zeros(ids_BS, jnp.int32),
            segment_ids_BS=jnp.zeros(ids_BS, jnp.int32),
            index=jnp.zeros((), jnp.int32),
        )

    def admit(self, positions_BT: jax.Array, segment_ids_BT: jax.Array) -> Self:
        """Returns the cache with the new tokens' positions and segments in their slots; `write` then moves on."""
        if positions_BT.shape[1] > self.positions_BS.shape[1]:
            raise ValueError(f"{positions_BT.shape[1]} tokens for a cache of {self.positions_BS.shape[1]} slots")
        at = (0, self.index)
        return self.replace(
            positions_BS=jax.lax.dynamic_update_slice(self.positions_BS, positions_BT, at),
            segment_ids_BS=jax.lax.dynamic_update_slice(self.segment_ids_BS, segment_ids_BT, at),
        )

    def mask(
        self,
        positions_BT: jax.Array,
        segment_ids_BT: jax.Array,
        *,
        window: int | None = None,
        prefix_BT: jax.Array | None = None,
    ) -> Mask:
        """Returns the causal mask of the new tokens over all slots, themselves included.

        A prefix among them is not kept: it is seen whole by those that are read with it, and what comes later sees all
        of it by causality.
        """
        prefix_BS = prefix_BT
        if prefix_BT is not None:
            prefix_BS = jax.lax.dynamic_update_slice(jnp.zeros_like(self.segment_ids_BS), prefix_BT, (0, self.index))
        return Mask(
            q_positions_BT=positions_BT,
            kv_positions_BS=self.positions_BS,
            q_segment_ids_BT=segment_ids_BT,
            kv_segment_ids_BS=self.segment_ids_BS,
            kv_prefix_BS=prefix_BS,
            causal=True,
            window=window,
        )

    def layers(self) -> LayerCache:
        """Returns every layer's part, stacked on the first axis, to be scanned over."""
        layers = self.key_NBSGK.shape[0]
        return LayerCache(self.key_NBSGK, self.value_NBSGK, jnp.broadcast_to(self.index, (layers,)))

    def write(self, key_NBTGK: jax.Array, value_NBTGK: jax.Array) -> Self:
        """Returns the cache with the new tokens' keys and values written, the index moved past them.

        Layers hand back only what is new, so a donated cache is updated in place and never held twice.
        """
        at = (0, 0, self.index, 0, 0)
        return self.replace(
            key_NBSGK=jax.lax.dynamic_update_slice(self.key_NBSGK, key_NBTGK.astype(self.key_NBSGK.dtype), at),
            value_NBSGK=jax.lax.dynamic_update_slice(self.value_NBSGK, value_NBTGK.astype(self.value_NBSGK.dtype), at),
            index=self.index + key_NBTGK.shape[2],
        )

    def take(self, rows_R: jax.Array) -> Self:
        """Returns the cache of the rows with these numbers, int32 [R]; a row may be taken often, or never."""
        return self.replace(
            key_NBSGK=self.key_NBSGK[:, rows_R],
            value_NBSGK=self.value_NBSGK[:, rows_R],
            positions_BS=self.positions_BS[rows_R],
            segment_ids_BS=self.segment_ids_BS[rows_R],
        )

    def repeat(self, times: int) -> Self:
        """Returns the cache with each row `times` times in a row."""
        return self if times == 1 else self.take(_repeated(self.positions_BS, times))


class DecoderLayerCache(struct.PyTreeNode):
    """One layer's part of an encoder-decoder's cache."""

    own: LayerCache
    """Keys and values of the decoder's earlier tokens."""
    memory: KeysValues | None
    """Cross-attention's keys and values of the encoder's output; None before they were computed."""


class EncoderDecoderCache(struct.PyTreeNode):
    """What an encoder-decoder keeps from call to call: its decoder's tokens, and what it made of the encoder's once."""

    own: KVCache
    """Keys and values of the decoder's tokens."""
    memory: KeysValues | None = None
    """Every layer's keys and values of the encoder's output, stacked: each [N, B, S, G, K]. None: not yet computed."""
    memory_segment_ids_BS: jax.Array | None = None
    """int32: the segment of each of the encoder's tokens; 0 is padding."""

    def take(self, rows_R: jax.Array) -> Self:
        """Returns the cache of the decoder's rows with these numbers, int32 [R]: rows of one source change places."""
        return self.replace(own=self.own.take(rows_R))

    def repeat(self, times: int) -> Self:
        """Returns the cache with each row, and what it made of its source, `times` times in a row."""
        if self.memory is None or self.memory_segment_ids_BS is None:
            raise ValueError("nothing is cached yet that could be repeated")
        rows_R = _repeated(self.memory_segment_ids_BS, times)
        key_NBSGK, value_NBSGK = self.memory
        return self.replace(
            own=self.own.repeat(times),
            memory=(key_NBSGK[:, rows_R], value_NBSGK[:, rows_R]),
            memory_segment_ids_BS=self.memory_segment_ids_BS[rows_R],
        )


def _repeated(rows: jax.Array, times: int) -> jax.Array:
    return jnp.repeat(jnp.arange(rows.shape[0], dtype=jnp.int32), times)
