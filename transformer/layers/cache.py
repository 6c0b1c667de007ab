"""The explicit key-value cache of decoding: data in, data out, so that prefill and decode are the same code.

Slots are the last axis, as products of one query with all keys and values read them: laid out by tokens, a cache would
be turned, which is to be copied, for every token. On a CPU a turned product takes half of the time, too.

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

    key_BGKS: jax.Array
    value_BGKS: jax.Array
    index: jax.Array
    """int32 scalar: the slot of the first new token, counted on from lap to lap of a cache that rolls."""

    def extended(self, key_BTGK: jax.Array, value_BTGK: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns all keys and all values [B, S, G, K], the new ones in their slots."""
        key_BGKS = _written(self.key_BGKS, key_BTGK, self.index)
        value_BGKS = _written(self.value_BGKS, value_BTGK, self.index)
        return by_tokens(key_BGKS), by_tokens(value_BGKS)


class KVCache(struct.PyTreeNode):
    """Keys and values of all layers, and which token each slot holds.

    Every row of the batch fills the same slots, [0, index): prompts of unequal length are padded (segment 0) on the
    left, and padding's slots are never attended to. A cache that is full begins anew with its first slots, a token at a
    time: it rolls, where queries see no more tokens than it has slots. Otherwise the caller keeps `index + T <= S`.
    """

    key_NBGKS: jax.Array | tuple[jax.Array, ...]
    """Stacked, or a tuple of each layer's (`unstacked`)."""
    value_NBGKS: jax.Array | tuple[jax.Array, ...]
    positions_BS: jax.Array
    """int32: the position of each slot's token."""
    segment_ids_BS: jax.Array
    """int32: the segment of each slot's token; 0 is an empty slot or padding."""
    index: jax.Array
    """int32 scalar: the next slot, counted on from lap to lap of a cache that rolls."""

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
        widths = head_width, head_width if value_width is None else value_width
        key_NBGKS, value_NBGKS = (jnp.zeros((layers, batch, kv_heads, width, length), dtype) for width in widths)
        ids_BS = (batch, length)
        return cls(
            key_NBGKS=key_NBGKS,
            value_NBGKS=value_NBGKS,
            positions_BS=jnp.zeros(ids_BS, jnp.int32),
            segment_ids_BS=jnp.zeros(ids_BS, jnp.int32),
            index=jnp.zeros((), jnp.int32),
        )

    def admit(self, positions_BT: jax.Array, segment_ids_BT: jax.Array) -> Self:
        """Returns the cache with the new tokens' positions and segments in their slots; `write` then moves on."""
        if positions_BT.shape[1] > self.positions_BS.shape[1]:
            raise ValueError(f"{positions_BT.shape[1]} tokens for a cache of {self.positions_BS.shape[1]} slots")
        at = (0, self.index % self.positions_BS.shape[1])
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
        key_NBGKS, value_NBGKS = _stacked(self.key_NBGKS), _stacked(self.value_NBGKS)
        return LayerCache(key_NBGKS, value_NBGKS, jnp.broadcast_to(self.index, key_NBGKS.shape[:1]))

    def unstacked(self) -> Self:
        """Returns the cache with an array for each layer, which a loop over tokens updates in place.

        What a layer reads is then the very array that `write` makes, where all layers are in one program: the compiler
        finds that both are one. Out of a stack, each layer's slots are copied for every token, and the stack too.
        """
        return self.replace(key_NBGKS=tuple(self.key_NBGKS), value_NBGKS=tuple(self.value_NBGKS))

    def write(self, key_NBTGK: jax.Array, value_NBTGK: jax.Array) -> Self:
        """Returns the cache with the new tokens' keys and values written, the index moved past them.

        Layers hand back only what is new, so a donated cache is updated in place and never held twice.
        """

        def written(old: Any, new_NBTGK: jax.Array) -> Any:
            if isinstance(old, tuple):
                return tuple(_written(*layer, self.index) for layer in zip(old, new_NBTGK, strict=True))
            return _written(old, new_NBTGK, self.index)

        return self.replace(
            key_NBGKS=written(self.key_NBGKS, key_NBTGK),
            value_NBGKS=written(self.value_NBGKS, value_NBTGK),
            index=self.index + key_NBTGK.shape[2],
        )

    def keep(self, newest: int, counts_R: jax.Array) -> Self:
        """Returns the cache without the newest tokens of all rows, but for each row's first `counts_R` of those.

        Their slots are empty; those that no row needs are used again.
        """
        places_S = jnp.arange(self.positions_BS.shape[1], dtype=jnp.int32)
        first = self.index - newest
        is_kept_BS = places_S[None] < first + counts_R[:, None]
        return self.replace(
            segment_ids_BS=jnp.where(is_kept_BS, self.segment_ids_BS, 0), index=first + jnp.max(counts_R)
        )

    def resized(self, slots: int) -> Self:
        """Returns the cache with more slots, which are empty, or with fewer, of the newest tokens.

        A cache that has rolled keeps its slots.
        """
        more = slots - self.positions_BS.shape[1]
        if more == 0:
            return self
        if more > 0:
            resized = lambda x: jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, more)])  # noqa: E731
        else:
            first = jnp.maximum(self.index - slots, 0)
            resized = lambda x: jax.lax.dynamic_slice_in_dim(x, first, slots, axis=x.ndim - 1)  # noqa: E731
        return jax.tree.map(resized, self.replace(index=None)).replace(index=jnp.minimum(self.index, slots))

    def put(self, other: Self, rows_K: jax.Array, width: int) -> Self:
        """Returns the cache with rows of another one, that of `width` tokens and no more, in place of its own.

        Their newest tokens stand beside those of all other rows, and the rest of their slots is empty. Where fewer than
        `width` slots are in use, the next ones become so, which in other rows are empty.

        Args:
          other: a cache whose rows' tokens are in its first `width` slots.
          rows_K: int32 [K], the rows that `other`'s take the place of; those of none are left out.
          width: tokens.
        """
        end = jnp.maximum(self.index, width)

        def replaced(mine_BXS: jax.Array, theirs_KXS: jax.Array) -> jax.Array:
            empty_KXS = jnp.zeros((rows_K.shape[0], *mine_BXS.shape[1:]), mine_BXS.dtype)
            at = (*[0] * (empty_KXS.ndim - 1), end - width)
            whole_KXS = jax.lax.dynamic_update_slice(empty_KXS, theirs_KXS[..., :width], at)
            return mine_BXS.at[rows_K].set(whole_KXS, mode="drop")

        def of_layers(mine: Any, theirs: Any) -> Any:
            if isinstance(mine, tuple):
                return tuple(map(replaced, mine, theirs))
            return jax.vmap(replaced)(mine, theirs)

        return self.replace(
            key_NBGKS=of_layers(self.key_NBGKS, other.key_NBGKS),
            value_NBGKS=of_layers(self.value_NBGKS, other.value_NBGKS),
            positions_BS=replaced(self.positions_BS, other.positions_BS),
            segment_ids_BS=replaced(self.segment_ids_BS, other.segment_ids_BS),
            index=end,
        )

    def without_oldest(self, count: jax.Array) -> Self:
        """Returns the cache with as many slots, of which the `count` oldest, int32 scalar, are free for new tokens."""
        moved = jax.tree.map(lambda x: jnp.roll(x, -count, axis=-1), self.replace(index=None))
        index = self.index - count
        is_used_S = jnp.arange(self.positions_BS.shape[1]) < index
        return moved.replace(segment_ids_BS=jnp.where(is_used_S, moved.segment_ids_BS, 0), index=index)

    def take(self, rows_R: jax.Array) -> Self:
        """Returns the cache of the rows with these numbers, int32 [R]; a row may be taken often, or never."""
        taken = lambda x: tuple(layer[rows_R] for layer in x) if isinstance(x, tuple) else x[:, rows_R]  # noqa: E731
        return self.replace(
            key_NBGKS=taken(self.key_NBGKS),
            value_NBGKS=taken(self.value_NBGKS),
            positions_BS=self.positions_BS[rows_R],
            segment_ids_BS=self.segment_ids_BS[rows_R],
        )

    def repeat(self, times: int) -> Self:
        """Returns the cache with each row `times` times in a row."""
        rows = jnp.arange(self.positions_BS.shape[0], dtype=jnp.int32)
        return self if times == 1 else self.take(jnp.repeat(rows, times))


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

    @property
    def index(self) -> jax.Array:
        """int32 scalar: the next slot of the decoder's tokens."""
        return self.own.index

    def keep(self, newest: int, counts_R: jax.Array) -> Self:
        """Returns the cache with `KVCache.keep` of the decoder's tokens."""
        return self.replace(own=self.own.keep(newest, counts_R))

    def resized(self, slots: int) -> Self:
        """Returns the cache with room for more of the decoder's tokens."""
        return self.replace(own=self.own.resized(slots))

    def take(self, rows_R: jax.Array) -> Self:
        """Returns the cache of the decoder's rows with these numbers, int32 [R]: rows of one source change places."""
        return self.replace(own=self.own.take(rows_R))

    def repeat(self, times: int) -> Self:
        """Returns the cache with each row, and what it made of its source, `times` times in a row."""
        if times == 1:
            return self
        if self.memory is None or self.memory_segment_ids_BS is None:
            raise ValueError("nothing is cached yet that could be repeated")
        key_NBSGK, value_NBSGK = self.memory
        return self.replace(
            own=self.own.repeat(times),
            memory=(jnp.repeat(key_NBSGK, times, axis=1), jnp.repeat(value_NBSGK, times, axis=1)),
            memory_segment_ids_BS=jnp.repeat(self.memory_segment_ids_BS, times, axis=0),
        )


def by_slots(x_BSGK: jax.Array) -> jax.Array:
    """Returns [..., G, K, S] of keys or values [..., S, G, K]."""
    return jnp.moveaxis(x_BSGK, -3, -1)


def by_tokens(x_BGKS: jax.Array) -> jax.Array:
    """Returns [..., S, G, K] of keys or values [..., G, K, S]."""
    return jnp.moveaxis(x_BGKS, -1, -3)


def _written(old_BGKS: jax.Array, new_BTGK: jax.Array, index: jax.Array) -> jax.Array:
    """Returns the keys or values with new ones in the slots from `index` on; before B there may be the layers."""
    at = (*[0] * (old_BGKS.ndim - 1), index % old_BGKS.shape[-1])
    return jax.lax.dynamic_update_slice(old_BGKS, by_slots(new_BTGK).astype(old_BGKS.dtype), at)


def _stacked(layers: jax.Array | tuple[jax.Array, ...]) -> jax.Array:
    return jnp.stack(layers) if isinstance(layers, tuple) else layers
