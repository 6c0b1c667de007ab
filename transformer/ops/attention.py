"""Scaled dot-product attention (Vaswani et al. 2017, section 3.2.1): who sees whom, and implementations by name.

A mask is carried as the few integers it follows from, not as a [T, S] array, so that each attention implementation can
use what it knows: skip blocks, hand causality to a kernel, or write the dense array out.

Shape letters: B batch, T query length, S key length, H query heads, G key-value heads, R = H / G queries of a group
(Ainslie et al. 2023, grouped-query attention), K head width.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Self

import jax
import jax.numpy as jnp
from flax import struct
from jax.ad_checkpoint import checkpoint_name

from transformer.errors import UserError
from transformer.ops.cudnn import check_dtype, cudnn_attention, widest_head
from transformer.ops.elementwise import draw_kept, scaled, without_dropped
from transformer.ops.kept import NAME
from transformer.ops.packed import packed_attention, packs
from transformer.parallel.local import splitting_axes, target_platform
from transformer.parallel.rules import on_one_device

# Finite, so that a row that sees nothing has a finite softmax and finite gradients; far below any score.
MASKED = -1e30
_LONG = 512
"""Queries and keys from which on a CPU takes a head at a time."""


class Mask(struct.PyTreeNode):
    """A query attends to a key of its own segment, and (if `causal`) to none that comes after it but a prefix's."""

    q_positions_BT: jax.Array | None = None
    """int32; a token's place in its segment. None where `aligned`, or where order does not matter."""
    kv_positions_BS: jax.Array | None = None
    """int32; as above, for keys."""
    q_segment_ids_BT: jax.Array | None = None
    """int32; 0 is padding, which attends to nothing. None: one segment, no padding."""
    kv_segment_ids_BS: jax.Array | None = None
    """int32; 0 is padding or an empty cache slot, to which nothing attends. None exactly if the queries' are None."""
    kv_prefix_BS: jax.Array | None = None
    """int32; 1 where a key belongs to its segment's prefix, which causality hides from none: it is fully visible
    (Raffel et al. 2020, section 3.2.1). None: no prefix."""
    causal: bool = struct.field(pytree_node=False, default=False)
    """Whether a query sees only keys at its own position and before."""
    window: int | None = struct.field(pytree_node=False, default=None)
    """A query sees the keys fewer than `window` positions away: Mistral's sliding window where causal. It bounds the
    sight of a prefix too, on both sides, as in T5's released code (Mesh TensorFlow, `local_attention_1d`)."""
    aligned: bool = struct.field(pytree_node=False, default=False)
    """Queries and keys are the same tokens in the same order: order is then by index, and kernels may skip blocks."""

    @classmethod
    def self_attention(
        cls,
        segment_ids_BT: jax.Array | None,
        *,
        causal: bool,
        window: int | None = None,
        prefix_BT: jax.Array | None = None,
    ) -> Self:
        """Returns the mask of tokens that attend to each other: aligned, so their order is their index."""
        return cls(
            q_segment_ids_BT=segment_ids_BT,
            kv_segment_ids_BS=segment_ids_BT,
            kv_prefix_BS=prefix_BT,
            causal=causal,
            window=window,
            aligned=True,
        )

    @property
    def sees_all(self) -> bool:
        """Whether every query sees every key."""
        return self.kv_segment_ids_BS is None and not self.causal and self.window is None

    def ordered(self, order_1T: jax.Array) -> "Mask":
        """Returns an aligned mask for tokens that stand in an order of their own: int32 [1, T], each one's place."""
        return self.replace(q_positions_BT=order_1T, kv_positions_BS=order_1T, aligned=False)

    def slice(self, queries: slice, keys: slice) -> "Mask":
        """Returns the mask of some of an aligned mask's queries and keys; it is no longer aligned."""
        cut = lambda ids, part: None if ids is None else ids[:, part]  # noqa: E731
        return self.replace(
            q_positions_BT=jnp.arange(queries.start, queries.stop, dtype=jnp.int32)[None],
            kv_positions_BS=jnp.arange(keys.start, keys.stop, dtype=jnp.int32)[None],
            q_segment_ids_BT=cut(self.q_segment_ids_BT, queries),
            kv_segment_ids_BS=cut(self.kv_segment_ids_BS, keys),
            kv_prefix_BS=cut(self.kv_prefix_BS, keys),
            aligned=False,
        )

    def dense(self, q_length: int, kv_length: int) -> jax.Array | None:
        """Returns bool [B or 1, 1, T, S], true where a query sees a key; None where every query sees every key."""
        parts = []
        if self.q_segment_ids_BT is not None and self.kv_segment_ids_BS is not None:
            q_BT1, kv_B1S = self.q_segment_ids_BT[:, :, None], self.kv_segment_ids_BS[:, None, :]
            parts.append((q_BT1 == kv_B1S) & (kv_B1S != 0))
        if self.causal or self.window is not None:
            ahead_BTS = self._distance(q_length, kv_length)
            prefix_BS = self.kv_prefix_BS
            if self.causal:
                behind_BTS = ahead_BTS >= 0
                parts.append(behind_BTS if prefix_BS is None else behind_BTS | (prefix_BS[:, None, :] != 0))
            if self.window is not None:
                one_sided = self.causal and prefix_BS is None
                parts.append((ahead_BTS if one_sided else abs(ahead_BTS)) < self.window)
        if not parts:
            return None
        mask_BTS = parts[0]
        for part in parts[1:]:
            mask_BTS = mask_BTS & part
        return mask_BTS[:, None]

    def _distance(self, q_length: int, kv_length: int) -> jax.Array:
        """Returns int32 [B or 1, T, S]: by how many positions the query comes after the key."""
        if self.aligned:
            if q_length != kv_length:
                raise ValueError(f"an aligned mask over {q_length} queries and {kv_length} keys")
            index = jnp.arange(q_length, dtype=jnp.int32)
            return (index[:, None] - index[None, :])[None]
        if self.q_positions_BT is None or self.kv_positions_BS is None:
            raise ValueError("a causal or windowed mask needs positions, or `aligned`")
        return self.q_positions_BT[:, :, None] - self.kv_positions_BS[:, None, :]


def attention(
    q_BTHK: jax.Array,
    k_BSGK: jax.Array,
    v_BSGK: jax.Array,
    mask: Mask,
    *,
    bias: jax.Array | None = None,
    scale: float | jax.Array | None = None,
    implementation: str = "auto",
    dropout_rate: float = 0.0,
    dropout_key: jax.Array | None = None,
    dropout_numbers: tuple[jax.Array, jax.Array] | None = None,
) -> jax.Array:
    """Returns softmax(scale * q k + bias) v, [B, T, H, K], in the dtype of `q_BTHK`.

    Args:
      q_BTHK: queries.
      k_BSGK: keys; G divides H, and query heads [g * R, (g + 1) * R) share key head g.
      v_BSGK: values; they may have another width than queries and keys, which the result then has.
      mask: who sees whom. A query that sees nothing gets zeros.
      bias: added to the scores, broadcastable to [B, H, T, S] (T5's relative positions).
      scale: of the scores, a number or a float32 scalar; K ** -0.5 by default.
      implementation: a name of `IMPLEMENTATIONS`, or "auto".
      dropout_rate: of the attention probabilities; 0 does not need `dropout_key`.
      dropout_key: a random key.
      dropout_numbers: int32 [H] and [T], which heads and queries these are of those that `dropout_key` is for; None:
        all of them.
    """
    if q_BTHK.shape[2] % k_BSGK.shape[2]:
        raise ValueError(f"{q_BTHK.shape[2]} query heads are no multiple of {k_BSGK.shape[2]} key-value heads")
    check_implementation(implementation)
    if implementation == "auto":
        implementation = "cudnn" if _cudnn_can(q_BTHK, k_BSGK, v_BSGK, bias, dropout_rate) else "xla"
    scale = q_BTHK.shape[-1] ** -0.5 if scale is None else scale
    dropping = None
    if dropout_rate > 0:
        if dropout_key is None:
            raise ValueError("attention dropout needs a key")
        everything = jnp.arange(q_BTHK.shape[2], dtype=jnp.int32), jnp.arange(q_BTHK.shape[1], dtype=jnp.int32)
        heads_H, queries_T = dropout_numbers or everything
        dropping = _Dropping(dropout_rate, dropout_key, heads_H, queries_T)
    return IMPLEMENTATIONS[implementation](q_BTHK, k_BSGK, v_BSGK, mask, bias, scale, dropping)


@dataclasses.dataclass(frozen=True)
class _Dropping:
    """Dropout of attention probabilities: what decides on a probability is the number of its row, head, query and key,
    whatever block or device it is computed in.
    """

    rate: float
    key: jax.Array
    heads_H: jax.Array
    queries_T: jax.Array
    first_key: int = 0

    def block(self, queries: slice, first_key: int) -> "_Dropping":
        """Returns the dropout of a block of queries, over keys from `first_key` on."""
        return dataclasses.replace(self, queries_T=self.queries_T[queries], first_key=first_key)

    def draw(self, shape: tuple[int, ...]) -> tuple[jax.Array | None, float]:
        """Returns what `draw_kept` does, of a block's probabilities [B, H, T, S]."""
        return draw_kept(shape, self.rate, self.key, self.heads_H, self.queries_T, first=self.first_key)


def check_implementation(name: str) -> None:
    """Raises `UserError` where no implementation has that name."""
    if name != "auto" and name not in IMPLEMENTATIONS:
        raise UserError(f"unknown attention implementation {name!r}; choose from: auto, {', '.join(IMPLEMENTATIONS)}")


def _reference(q_BTHK, k_BSGK, v_BSGK, mask, bias, scale, dropping):
    """The equation, in float32, with the whole [B, H, T, S] matrix: the truth for the others."""
    repeats = q_BTHK.shape[2] // k_BSGK.shape[2]
    k_BSHK, v_BSHK = (jnp.repeat(x.astype(jnp.float32), repeats, axis=2) for x in (k_BSGK, v_BSGK))
    scores_BHTS = scale * jnp.einsum("BTHK,BSHK->BHTS", q_BTHK.astype(jnp.float32), k_BSHK)
    if bias is not None:
        scores_BHTS += bias.astype(jnp.float32)
    dense_B1TS = mask.dense(q_BTHK.shape[1], k_BSGK.shape[1])
    if dense_B1TS is not None:
        scores_BHTS = jnp.where(dense_B1TS, scores_BHTS, jnp.float32(MASKED))
    probs_BHTS = jax.nn.softmax(scores_BHTS, axis=-1)
    if dense_B1TS is not None:
        probs_BHTS = jnp.where(dense_B1TS, probs_BHTS, jnp.float32(0))
    if dropping is not None:
        probs_BHTS = without_dropped(probs_BHTS, *dropping.draw(probs_BHTS.shape))
    return checkpoint_name(jnp.einsum("BHTS,BSHK->BTHK", probs_BHTS, v_BSHK).astype(q_BTHK.dtype), NAME)


def _xla(q_BTHK, k_BSGK, v_BSGK, mask, bias, scale, dropping):
    """Blocks of queries, each against only the keys that the mask's order lets it see.

    Half of the work of causal attention is above the diagonal. A block's scores also stay in cache between the two
    matrix products, where a whole [B, H, T, S] matrix goes to memory and back several times. At most 8 blocks: each is
    compiled apart, and narrower ones make slower products.
    """
    length = q_BTHK.shape[1]
    if not mask.aligned or not (mask.causal or mask.window is not None):
        is_long = min(length, k_BSGK.shape[1]) >= _LONG
        if is_long and mask.sees_all and bias is None and dropping is None and _loops_are_cheap():
            return _by_head(q_BTHK, k_BSGK, v_BSGK, scale)
        return _dense(q_BTHK, k_BSGK, v_BSGK, mask, bias, scale, dropping)
    block = max(64, -(-length // 8))
    outs = []
    for start in range(0, length, block):
        stop = min(start + block, length)
        reach = length if mask.window is None else mask.window - 1
        # A prefix may begin in this block and end in any later one: which one is data, and shapes are not.
        one_sided = mask.causal and mask.kv_prefix_BS is None
        first, last = max(0, start - reach), stop if one_sided else min(length, stop + reach)
        queries, keys = slice(start, stop), slice(first, last)
        part = None if bias is None else bias[:, :, queries if bias.shape[2] > 1 else slice(None)]
        part = part if part is None or part.shape[3] == 1 else part[..., keys]
        outs.append(
            _dense(
                q_BTHK[:, queries], k_BSGK[:, keys], v_BSGK[:, keys], mask.slice(queries, keys),
                part, scale, None if dropping is None else dropping.block(queries, first),
            )
        )  # fmt: skip
    return outs[0] if len(outs) == 1 else jnp.concatenate(outs, axis=1)


def _dense(q_BTHK, k_BSGK, v_BSGK, mask: Mask, bias, scale, dropping):
    """Scores and softmax in float32, matrix products in the dtype of the inputs."""
    B, T, H, K = q_BTHK.shape
    S, G = k_BSGK.shape[1:3]
    R = H // G
    # A group's R queries become rows of one product, Q = R * T of them: a product with the group as an axis of its own
    # takes 1.4 times as long on a CPU, even where R is 1.
    q_BTGRK = scaled(q_BTHK, scale).reshape(B, T, G, R, K)
    q_BGQK = q_BTGRK.transpose(0, 2, 3, 1, 4).reshape(B, G, R * T, K)
    k_BGSK, v_BGSK = k_BSGK.swapaxes(1, 2), v_BSGK.swapaxes(1, 2)
    scores_BGQS = jnp.einsum("BGQK,BGSK->BGQS", q_BGQK, k_BGSK, preferred_element_type=jnp.float32)
    scores_BHTS = scores_BGQS.reshape(B, H, T, S)
    if bias is not None:
        scores_BHTS += bias.astype(jnp.float32)
    kept_BHTS, factor = (None, 1.0) if dropping is None else dropping.draw(scores_BHTS.shape)
    out_BHTK: Any = _averaged(scores_BHTS, v_BGSK, mask.dense(T, S), kept_BHTS, factor)
    return out_BHTK.swapaxes(1, 2)


def _by_head(q_BTHK: jax.Array, k_BSGK: jax.Array, v_BSGK: jax.Array, scale: Any) -> jax.Array:
    """`_dense` where every query sees every key, a row's head after the other.

    On a CPU a product of two matrices is faster than a product of stacks of them, and a head's scores are nearer than
    those of all: at 1,500 tokens (Whisper's encoder) 0.4 of the dense form's time, 0.7 with its gradients; up to 512
    tokens the dense form is faster. The gradient computes a head's scores again, and none are kept.
    """
    B, T, H, K = q_BTHK.shape
    S, G = k_BSGK.shape[1:3]
    grouped_BTGRK = scaled(q_BTHK, scale).reshape(B, T, G, H // G, K)
    q_PQK = grouped_BTGRK.transpose(0, 2, 3, 1, 4).reshape(B * G, -1, K)  # P pairs of a row and a key-value head
    k_PSK, v_PSK = (x.swapaxes(1, 2).reshape(B * G, S, -1) for x in (k_BSGK, v_BSGK))

    def attended(pair: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        q_QK, k_SK, v_SK = pair
        scores_QS = jnp.einsum("QK,SK->QS", q_QK, k_SK, preferred_element_type=jnp.float32)
        out_1QK: Any = _averaged(scores_QS[None], v_SK[None], keeps_result=True)
        return out_1QK[0]

    out_PQK = jax.lax.map(jax.checkpoint(attended, prevent_cse=False), (q_PQK, k_PSK, v_PSK))
    out_PQK = checkpoint_name(out_PQK, NAME)
    return out_PQK.reshape(B, H, T, -1).swapaxes(1, 2)


def _loops_are_cheap() -> bool:
    """Whether rows and heads may come one after the other: on one CPU, which computes no two products at once."""
    return target_platform() == "cpu" and on_one_device()


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _averaged(
    scores_PHTS: jax.Array,
    v_PGSK: jax.Array,
    visible: jax.Array | None = None,
    kept: jax.Array | None = None,
    factor: float = 1.0,
    keeps_result: bool = False,
) -> jax.Array:
    """Returns the values, averaged by the softmax of the visible scores: [P, H, T, K], in their dtype.

    The softmax is never written out. Values are weighed by exp(score - peak), and the sums are divided by the weights'
    total, which are as many numbers as the result and not as many as the scores: one pass less over these. P are
    leading axes.

    Args:
      scores_PHTS: float32.
      v_PGSK: values; query heads [g * R, (g + 1) * R) share head g.
      visible: bool, broadcastable to the scores; None: all are. A query that sees nothing gets zeros.
      kept: bool, broadcastable to the scores: the probabilities that are not dropped; None: all.
      factor: of those that are kept.
      keeps_result: in float32, keep the result for the gradient, which then makes a pass less over the scores.
    """
    return _averaged_forward(scores_PHTS, v_PGSK, visible, kept, factor, keeps_result)[0]


def _averaged_forward(scores_PHTS, v_PGSK, visible, kept, factor, keeps_result):
    if visible is not None:
        scores_PHTS = jnp.where(visible, scores_PHTS, jnp.float32(MASKED))
    # A row that sees nothing has its peak held above its scores, so that they vanish.
    peak_PHT1 = jnp.maximum(scores_PHTS.max(axis=-1, keepdims=True), jnp.float32(MASKED / 2))
    exp_PHTS = jnp.exp(scores_PHTS - peak_PHT1).astype(v_PGSK.dtype)
    # Of the rounded weights, so that these add up to 1; those of a row that sees something, to 1 at least before.
    total_PHT1 = exp_PHTS.astype(jnp.float32).sum(axis=-1, keepdims=True)
    share_PHT1 = 1 / jnp.maximum(total_PHT1, jnp.float32(1))
    sums_PGQK = _product("...QS,...SK->...QK", _by_group(without_dropped(exp_PHTS, kept, 1.0), v_PGSK), v_PGSK)
    out_PHTK = sums_PGQK.reshape(*scores_PHTS.shape[:-1], -1) * (jnp.float32(factor) * share_PHT1)
    out_PHTK = checkpoint_name(out_PHTK.astype(v_PGSK.dtype), NAME)
    # Where it is rounded, what all cotangents of a row share would not quite cancel.
    is_kept = keeps_result and out_PHTK.dtype == jnp.float32
    return out_PHTK, (exp_PHTS, share_PHT1, v_PGSK, kept, out_PHTK if is_kept else None)


def _averaged_backward(factor, keeps_result, residuals, dout_PHTK):
    del keeps_result
    exp_PHTS, share_PHT1, v_PGSK, kept, out_PHTK = residuals
    weights_PHTS = exp_PHTS.astype(jnp.float32)
    dsums_PHTK = (dout_PHTK.astype(jnp.float32) * (jnp.float32(factor) * share_PHT1)).astype(v_PGSK.dtype)
    dsums_PGQK = _by_group(dsums_PHTK, v_PGSK)
    # As [K, S], which turns the narrow side: a CPU turns what a product reads by columns.
    dv_PGKS = _product("...QK,...QS->...KS", dsums_PGQK, _by_group(without_dropped(exp_PHTS, kept, 1.0), v_PGSK))
    dexp_PGQS = _product("...QK,...SK->...QS", dsums_PGQK, v_PGSK)
    dexp_PHTS = without_dropped(dexp_PGQS.reshape(exp_PHTS.shape), kept, 1.0)
    if out_PHTK is None:
        mean_PHT1 = (weights_PHTS * dexp_PHTS).sum(axis=-1, keepdims=True) * share_PHT1
    else:
        # What the weights average their cotangents to is the result's product with its own cotangent (Dao et al. 2022,
        # FlashAttention, section B.2).
        mean_PHT1 = (dsums_PHTK * out_PHTK).sum(axis=-1, keepdims=True) / jnp.float32(factor)
    return weights_PHTS * (dexp_PHTS - mean_PHT1), dv_PGKS.mT.astype(v_PGSK.dtype), None, None


_averaged.defvjp(_averaged_forward, _averaged_backward)


def _by_group(x_PHTS: jax.Array, v_PGSK: jax.Array) -> jax.Array:
    """Returns [P, G, R * T, S]: the queries of a group in rows of one product."""
    return x_PHTS.reshape(*v_PGSK.shape[:-2], -1, x_PHTS.shape[-1])


def _product(axes: str, x: jax.Array, y: jax.Array) -> Any:
    return jnp.einsum(axes, x, y, preferred_element_type=jnp.float32)


def _cudnn_can(
    q_BTHK: jax.Array, k_BSGK: jax.Array, v_BSGK: jax.Array, bias: jax.Array | None, dropout_rate: float
) -> bool:
    """Whether cuDNN's kernel exists for these arrays and can be cut by the mesh that is compiled for.

    Odd lengths have no gradient under a mask or bias. The kernel is partitioned over rows and heads, never over the
    length: a sequence that is split over devices would be refused where the program is compiled.
    """
    return (
        q_BTHK.dtype in (jnp.bfloat16, jnp.float16)
        and target_platform() == "gpu"
        and not splitting_axes("activation_length")
        and q_BTHK.shape[-1] % 8 == 0
        and q_BTHK.shape[-1] <= widest_head()
        and q_BTHK.shape[-1] == v_BSGK.shape[-1]
        and q_BTHK.shape[1] % 2 == 0
        and k_BSGK.shape[1] % 2 == 0
        and bias is None
        and dropout_rate == 0.0
    )


def _packed(q_BTHK, k_BSGK, v_BSGK, mask, bias, scale, dropping):
    """cuDNN's attention, in its packed layout where the mask is of documents in their rows."""
    if bias is not None or dropping is not None or not packs(q_BTHK, mask):
        return cudnn_attention(q_BTHK, k_BSGK, v_BSGK, mask, bias, scale, dropping)
    check_dtype(q_BTHK)
    return packed_attention(q_BTHK, k_BSGK, v_BSGK, mask.q_segment_ids_BT, scale, causal=mask.causal)


IMPLEMENTATIONS: dict[str, Callable[..., jax.Array]] = {
    "reference": _reference,
    "xla": _xla,
    "cudnn": cudnn_attention,
    "packed": _packed,
}
