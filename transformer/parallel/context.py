"""Context parallelism: attention over a sequence that the mesh axis `sequence` splits.

Queries never leave their device. Either all keys come to it (`gather`), or the keys of one device after another do
(`ring`: Liu et al. 2023, "Ring attention with blockwise transformers"). Both are `shard_map`s, in which a device has
its own rows and heads alone as well, as the activations around them are split: kernels that the compiler cannot split
(cuDNN's) run there, and no branch that one device takes and another does not can hold a collective. What a mask is
made of (segments, prefixes, an order) is a few integers a token, which every device along `sequence` has whole, as
batches are placed: it never travels.

Shape letters: B batch, T query length, S key length, H query heads, G key-value heads, K head width.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from transformer.errors import UserError
from transformer.ops import blockwise
from transformer.ops.attention import Mask, attention, check_implementation
from transformer.ops.elementwise import numbered, row_numbers, scaled
from transformer.ops.kept import kept
from transformer.parallel.local import dividing_axes, on_parts, scattered_sum
from transformer.parallel.rules import constrain

AXIS = "sequence"
CONTEXTS = ("gather", "ring")
_QUERIES = ("activation_batch", "activation_length", "activation_heads", None)
_KEYS = ("activation_batch", "activation_length", "activation_kv_heads", None)


def attention_in_context(
    q_BTHK: jax.Array,
    k_BSGK: jax.Array,
    v_BSGK: jax.Array,
    mask: Mask,
    *,
    context: str = "gather",
    bias: jax.Array | None = None,
    scale: float | jax.Array | None = None,
    implementation: str = "auto",
    dropout_rate: float = 0.0,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """Returns what `ops.attention.attention` does, on the mesh of today, in a way that its axis `sequence` can split.

    A length that the axis does not divide (one token in decoding) is not split. Arguments as there, and:
      context: "gather" or "ring", how keys come to queries on other devices.

    Raises:
      UserError: a ring with a bias, with dropout, or with an implementation that is chosen by name.
    """
    check_implementation(implementation)
    parts = _parts()
    factor = q_BTHK.shape[-1] ** -0.5 if scale is None else scale
    options = {"bias": bias, "scale": factor, "implementation": implementation, "dropout_rate": dropout_rate}
    if parts == 1 or q_BTHK.shape[1] % parts or k_BSGK.shape[1] % parts:
        return attention(q_BTHK, k_BSGK, v_BSGK, mask, dropout_key=dropout_key, **options)
    mask = _in_any_order(mask, q_BTHK.shape[1])
    if context == "gather":
        return _gathered(q_BTHK, k_BSGK, v_BSGK, mask, dropout_key=dropout_key, **options)
    _check_ring(bias, dropout_rate, implementation)
    return _ring(parts, scaled(q_BTHK, factor), k_BSGK, v_BSGK, mask)


def balanced(batch: Mapping[str, Any], context: str, kind: str) -> Mapping[str, Any]:
    """Returns a batch whose tokens stand in an order that gives all devices of a causal ring as many keys to look at.

    Of 2 n chunks of a row, device i of n gets chunks i and 2 n - 1 - i (zigzag: Zhu 2024, "ring-flash-attention"): in
    the order of the text the last device would have 2 n - 1 times as much to do as the first. Targets and weights go
    with their tokens, so sums over tokens stay what they are; `inputs` gets `order`, int32 [1, T], each token's place.

    The batch comes back as it is where this helps nobody: on the mesh of today no axis `sequence`, a length that 2 n
    does not divide, keys that are gathered, or a model that is no decoder.

    Args:
      batch: a decoder's has arrays [B, T] alone, whole on each device along `sequence`; targets and weights are
        optional.
      context: `Execution.context`.
      kind: the model's, `Architecture.kind`.
    """
    parts = _parts()
    if context != "ring" or kind != "decoder" or parts == 1 or batch["inputs"]["tokens"].shape[1] % (2 * parts):
        return batch
    order = balanced_order(batch["inputs"]["tokens"].shape[1], parts)
    chunks = balanced_order(2 * parts, parts)

    def permuted(x: jax.Array) -> jax.Array:
        if x.ndim == 1:  # of rows, not of tokens
            return x
        shape = x.shape
        x = x.reshape(shape[0], 2 * parts, -1)[:, chunks].reshape(shape)
        # Kept whole: split along the length before, its chunks would have to change devices.
        return constrain(x, "activation_batch", None)

    dealt = jax.tree.map(permuted, dict(batch))
    return dealt | {"inputs": dict(dealt["inputs"]) | {"order": jnp.asarray(order)[None]}}


def balanced_order(length: int, parts: int) -> np.ndarray:
    """Returns int32 [T]: the place of each token of the balanced order in the text's."""
    chunks = np.arange(length, dtype=np.int32).reshape(2 * parts, -1)
    return np.stack([chunks[:parts], chunks[: parts - 1 : -1]], axis=1).reshape(-1)


def _parts() -> int:
    """Returns how many devices split a sequence."""
    return 1 if _mesh().empty else _mesh().shape.get(AXIS, 1)


def _in_any_order(mask: Mask, length: int) -> Mask:
    """Returns the mask with positions of its own, of which any part can be taken, where order matters."""
    if not mask.aligned:
        return mask
    if not mask.causal and mask.window is None:
        return mask.replace(aligned=False)
    return mask.ordered(jnp.arange(length, dtype=jnp.int32)[None])


def _gathered(q_BTHK, k_BSGK, v_BSGK, mask: Mask, *, bias, scale, dropout_key, **options) -> jax.Array:
    """Attention of each device's queries to all keys. Causality saves nothing here: devices run one program, and what
    the last one's queries see is everything."""

    queries, keys = _specs(q_BTHK, k_BSGK)

    def attend(q_BTHK, k_BSGK, v_BSGK, mask, bias, scale, dropout_key, rows_B, *numbers):
        k_BSGK, v_BSGK = (_gather(x) for x in (k_BSGK, v_BSGK))
        traced = {"bias": bias, "scale": scale, "dropout_key": dropout_key, "dropout_numbers": numbers}
        with numbered(rows_B):
            return attention(q_BTHK, k_BSGK, v_BSGK, mask, **traced, **options)

    of_bias = (
        None if bias is None else _spec(bias, "activation_batch", queries[2] and _QUERIES[2], "activation_length", None)
    )
    # Which rows, heads and queries a device has: what is dropped of them does not depend on who has them.
    T, H = q_BTHK.shape[1:3]
    numbers = row_numbers(q_BTHK.shape[0]), jnp.arange(H, dtype=jnp.int32), jnp.arange(T, dtype=jnp.int32)
    of_numbers = (PartitionSpec(queries[axis]) for axis in (0, 2, 1))
    everywhere = PartitionSpec()
    in_specs = queries, keys, keys, _mask_specs(mask, queries_split=True), of_bias, everywhere, everywhere, *of_numbers
    return on_parts(attend, in_specs, queries)(q_BTHK, k_BSGK, v_BSGK, mask, bias, scale, dropout_key, *numbers)


@jax.custom_vjp
def _gather(x_BSGK: jax.Array) -> jax.Array:
    """Returns the keys or values of all devices. Their gradients are summed over devices in float32."""
    return jax.lax.all_gather(x_BSGK, AXIS, axis=1, tiled=True)


def _scatter(_, dx_BSGK: jax.Array) -> tuple[jax.Array]:
    summed = scattered_sum(dx_BSGK.astype(jnp.float32), AXIS, dimension=1)
    return (summed.astype(dx_BSGK.dtype),)


_gather.defvjp(lambda x_BSGK: (_gather(x_BSGK), None), _scatter)


def _check_ring(bias: jax.Array | None, dropout_rate: float, implementation: str) -> None:
    lacking = None
    if bias is not None:
        lacking = "a bias of its scores (relative positions)"
    elif dropout_rate > 0:
        lacking = "dropout of attention probabilities"
    elif implementation not in ("auto", "xla"):
        lacking = f"the attention implementation {implementation!r}"
    if lacking is not None:
        raise UserError(f"--execution.context ring does not support {lacking}: choose --execution.context gather")


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _ring(parts: int, q_BTHK, k_BSGK, v_BSGK, mask: Mask) -> jax.Array:
    """Attention of each device's queries to the keys of one device after another; the queries are scaled."""
    return _ring_forward(parts, q_BTHK, k_BSGK, v_BSGK, mask)[0]


def _ring_forward(parts: int, q_BTHK, k_BSGK, v_BSGK, mask: Mask):
    dtype = q_BTHK.dtype

    def local(q_BTHK, k_BSGK, v_BSGK, mask: Mask):
        q_NBXGRK = blockwise.blocks(blockwise.split_heads(q_BTHK, k_BSGK.shape[2]))

        def turn(carry, step):
            seen, (k_BSGK, v_BSGK) = carry
            # Sent on before they are used, so that both happen at once.
            following = _pass_on(parts, k_BSGK), _pass_on(parts, v_BSGK)
            return (blockwise.see(seen, q_NBXGRK, k_BSGK, v_BSGK, _part(mask, parts, step)), following), None

        carry = blockwise.nothing_seen(q_NBXGRK, v_BSGK.shape[-1]), (k_BSGK, v_BSGK)
        (seen, (k_BSGK, v_BSGK)), _ = jax.lax.scan(turn, carry, jnp.arange(parts - 1, dtype=jnp.int32))
        seen = blockwise.see(seen, q_NBXGRK, k_BSGK, v_BSGK, _part(mask, parts, jnp.int32(parts - 1)))
        return blockwise.finished(seen, dtype)

    queries, keys = _specs(q_BTHK, k_BSGK)
    in_specs = queries, keys, keys, _mask_specs(mask, queries_split=False)
    results = on_parts(local, in_specs, (queries, _lse_spec(keys)))(q_BTHK, k_BSGK, v_BSGK, mask)
    out_BTHK, lse = kept(results)  # spares the keys another round
    return out_BTHK, (q_BTHK, k_BSGK, v_BSGK, mask, out_BTHK, lse)


def _ring_backward(parts: int, residuals, dout_BTHK):
    def local(q_BTHK, k_BSGK, v_BSGK, mask: Mask, out_BTHK, lse, dout_BTHK):
        q_NBXGRK = blockwise.blocks(blockwise.split_heads(q_BTHK, k_BSGK.shape[2]))
        of_queries = blockwise.query_gradients(out_BTHK, dout_BTHK, lse)

        def turn(carry, step):
            dq, dkv, (k_BSGK, v_BSGK) = carry
            following = _pass_on(parts, k_BSGK), _pass_on(parts, v_BSGK)
            part = _part(mask, parts, step)
            dq, (dk, dv) = blockwise.see_backward(dq, dkv, q_NBXGRK, of_queries, k_BSGK, v_BSGK, part)
            # Gradients travel with their keys, and come home.
            return (dq, (_pass_on(parts, dk), _pass_on(parts, dv)), following), None

        zeros = functools.partial(jnp.zeros, dtype=jnp.float32)
        carry = zeros(q_NBXGRK.shape), (zeros(k_BSGK.shape), zeros(v_BSGK.shape)), (k_BSGK, v_BSGK)
        (dq, dkv, (k_BSGK, v_BSGK)), _ = jax.lax.scan(turn, carry, jnp.arange(parts - 1, dtype=jnp.int32))
        part = _part(mask, parts, jnp.int32(parts - 1))
        dq, (dk, dv) = blockwise.see_backward(dq, dkv, q_NBXGRK, of_queries, k_BSGK, v_BSGK, part)
        dk_BSGK, dv_BSGK = _pass_on(parts, dk), _pass_on(parts, dv)
        dq_BTHK = blockwise.merged_heads(blockwise.unblocked(dq))
        return dq_BTHK.astype(q_BTHK.dtype), dk_BSGK.astype(k_BSGK.dtype), dv_BSGK.astype(v_BSGK.dtype)

    queries, keys = _specs(*residuals[:2])
    of_mask = _mask_specs(residuals[3], queries_split=False)
    in_specs = queries, keys, keys, of_mask, queries, _lse_spec(keys), queries
    return *on_parts(local, in_specs, (queries, keys, keys))(*residuals, dout_BTHK), None


_ring.defvjp(_ring_forward, _ring_backward)


def _mesh() -> Any:
    return jax.sharding.get_abstract_mesh()


def _spec(x: jax.Array, *names: str | None) -> PartitionSpec:
    """Returns how an array is split: by a logical name for each dimension, or None, where the mesh divides it."""
    pairs = zip(names, x.shape, strict=True)
    return PartitionSpec(*((dividing_axes(name, size) or None) if name else None for name, size in pairs))


def _specs(q_BTHK: jax.Array, k_BSGK: jax.Array) -> tuple[PartitionSpec, PartitionSpec]:
    """Returns how queries, and how keys and values are split: by heads only where both are."""
    queries, keys = _spec(q_BTHK, *_QUERIES), _spec(k_BSGK, *_KEYS)
    if queries[2] != keys[2]:
        queries, keys = (PartitionSpec(*spec[:2], None, None) for spec in (queries, keys))
    return queries, keys


def _lse_spec(keys: PartitionSpec) -> PartitionSpec:
    """Returns how [N, B, G, R, X] is split, blocks of queries by their sequence."""
    return PartitionSpec(AXIS, keys[0], keys[2])


def _mask_specs(mask: Mask, *, queries_split: bool) -> Mask:
    """Returns how a mask is split by rows and, if asked, what it holds of queries by their sequence too."""

    def split(x: jax.Array, of_queries: bool) -> PartitionSpec:
        return _spec(x, "activation_batch", "activation_length" if of_queries and queries_split else None)

    fields = {"q_positions_BT": True, "q_segment_ids_BT": True}
    fields |= dict.fromkeys(("kv_positions_BS", "kv_segment_ids_BS", "kv_prefix_BS"), False)
    present = {name: of_queries for name, of_queries in fields.items() if getattr(mask, name) is not None}
    return mask.replace(**{name: split(getattr(mask, name), of_queries) for name, of_queries in present.items()})


def _pass_on(parts: int, x: jax.Array) -> jax.Array:
    """Returns what the device before this one had."""
    return jax.lax.ppermute(x, AXIS, [(device, (device + 1) % parts) for device in range(parts)])


def _part(mask: Mask, parts: int, step: jax.Array) -> Mask:
    """Returns the mask of this device's queries over the keys that it holds at a step of the ring."""
    device = jax.lax.axis_index(AXIS)

    def cut(ids: jax.Array | None, part: jax.Array) -> jax.Array | None:
        if ids is None:
            return None
        length = ids.shape[1] // parts
        return jax.lax.dynamic_slice_in_dim(ids, part * length, length, axis=1)

    keys = (device - step) % parts
    return mask.replace(
        q_positions_BT=cut(mask.q_positions_BT, device),
        q_segment_ids_BT=cut(mask.q_segment_ids_BT, device),
        kv_positions_BS=cut(mask.kv_positions_BS, keys),
        kv_segment_ids_BS=cut(mask.kv_segment_ids_BS, keys),
        kv_prefix_BS=cut(mask.kv_prefix_BS, keys),
    )
