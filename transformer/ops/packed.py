"""Packed rows in the layout of cuDNN's attention: it is told where each document begins and ends, and reads no mask.

A device's rows are one stream of tokens, cut into runs: neighbours of one segment, padding too, so that each token is
in one. The kernel takes a fixed number of runs; where a batch has more, it is called again for the next ones, and each
token keeps what the call for its own run gave.

Nothing public of JAX has this layout, and what is private counts the keys' offsets in queries' heads, which are more
than the keys' where these are grouped. So the kernel's primitives are bound here, as JAX 0.10.2 has them.

Shape letters: B batch, T length, H query heads, G key-value heads, K head width; N = B * T tokens of a device, M runs
of a row that the kernel takes.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from transformer.errors import UserError
from transformer.ops.cudnn import kernels, rows_and_heads
from transformer.ops.elementwise import scaled
from transformer.ops.kept import kept
from transformer.parallel.local import on_parts

JAX = "0.10.2"
"""The version whose primitives these are."""
_TOKENS_A_RUN = 256
"""Tokens of a run, on average over a device's rows, from which on the kernel is called once. The softmax's statistics
take 4 bytes a token, head and run of a row."""


def packs(q_BTHK: jax.Array, mask: Any) -> bool:
    """Whether documents' lengths say all that a mask does; and the kernel's int32 offsets reach all elements."""
    return (
        mask.aligned
        and mask.q_segment_ids_BT is not None
        and mask.kv_prefix_BS is None
        and mask.window is None
        and q_BTHK.size < 2**31
    )


def packed_attention(
    q_BTHK: jax.Array, k_BTGK: jax.Array, v_BTGK: jax.Array, segment_ids_BT: jax.Array, scale: Any, *, causal: bool
) -> jax.Array:
    """Returns [B, T, H, K]: each token attends to the tokens of its segment, if `causal` to none after it.

    Args:
      q_BTHK: queries, bfloat16 or float16.
      k_BTGK: keys.
      v_BTGK: values.
      segment_ids_BT: int32; tokens of one segment are neighbours. 0 is padding, which gets zeros.
      scale: of the scores.
      causal: whether order within a segment hides what comes after.

    Raises:
      UserError: another version of JAX.
    """
    if jax.__version__ != JAX:
        raise UserError(
            f"attention implementation 'packed' is written for JAX {JAX}, and this is {jax.__version__}: choose 'cudnn'"
        )
    if isinstance(scale, jax.Array):  # the kernel's is a constant of the program
        q_BTHK, scale = scaled(q_BTHK, scale), 1.0
    return _attention(q_BTHK, k_BTGK, v_BTGK, segment_ids_BT, float(scale), causal)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _attention(q_BTHK, k_BTGK, v_BTGK, segment_ids_BT, scale, causal):
    return _forward(q_BTHK, k_BTGK, v_BTGK, segment_ids_BT, scale, causal)[0]


def _forward(q_BTHK, k_BTGK, v_BTGK, segment_ids_BT, scale, causal):
    def local(q_BTHK, k_BTGK, v_BTGK, segment_ids_BT):
        runs = _Runs(segment_ids_BT)
        call = functools.partial(forward_kernel, q_BTHK, k_BTGK, v_BTGK, scale=scale, causal=causal)

        def following(carry):
            number, out_BTHK = carry
            return number + 1, *runs.select(number, call(*runs.of_call(number))[:1], (out_BTHK,))

        out_BTHK, stats = call(*runs.of_call(0))
        _, out_BTHK = jax.lax.while_loop(lambda carry: runs.has_call(carry[0]), following, (jnp.int32(1), out_BTHK))
        return runs.without_padding(out_BTHK), stats

    rows, heads = _specs(q_BTHK, k_BTGK)
    on_devices = _on_devices(local, (rows, rows, rows, PartitionSpec(rows[0])), (rows, heads))
    out_BTHK, stats = kept(on_devices(q_BTHK, k_BTGK, v_BTGK, segment_ids_BT))
    return out_BTHK, (q_BTHK, k_BTGK, v_BTGK, segment_ids_BT, out_BTHK, stats)


def _backward(scale, causal, residuals, dout_BTHK):
    def local(q_BTHK, k_BTGK, v_BTGK, segment_ids_BT, out_BTHK, stats, dout_BTHK):
        runs, arrays = _Runs(segment_ids_BT), (q_BTHK, k_BTGK, v_BTGK)
        forward = functools.partial(forward_kernel, *arrays, scale=scale, causal=causal)
        backward = functools.partial(backward_kernel, *arrays, scale=scale, causal=causal)
        dout_BTHK = runs.without_padding(dout_BTHK)

        def gradients(number, stats):
            return backward(stats, out_BTHK, dout_BTHK, *runs.of_call(number))

        def following(carry):
            number, total = carry
            stats = forward(*runs.of_call(number))[1]
            return number + 1, runs.select(number, gradients(number, stats), total)

        first = runs.select(0, gradients(0, stats), map(jnp.zeros_like, arrays))
        return jax.lax.while_loop(lambda carry: runs.has_call(carry[0]), following, (jnp.int32(1), first))[1]

    rows, heads = _specs(*residuals[:2])
    in_specs = (rows, rows, rows, PartitionSpec(rows[0]), rows, heads, rows)
    return *_on_devices(local, in_specs, (rows, rows, rows))(*residuals, dout_BTHK), None


_attention.defvjp(_forward, _backward)


class _Runs:
    """The runs of a device's rows, in the calls of the kernel that they take."""

    def __init__(self, segment_ids_BT: jax.Array):
        B, T = segment_ids_BT.shape
        self._shape, self._taken, self._segment_ids_BT = (B, T), B * runs_of_a_row(T), segment_ids_BT
        before_BT = jnp.pad(segment_ids_BT, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
        begins_N = (segment_ids_BT != before_BT).reshape(-1)
        self._call_BT = ((jnp.cumsum(begins_N, dtype=jnp.int32) - 1) // self._taken).reshape(B, T)
        # The calls' runs one after another, and after the last run's beginning as many ends of the stream.
        size = -(-B * T // self._taken) * self._taken + 1
        self._starts = jnp.nonzero(begins_N, size=size, fill_value=B * T)[0].astype(jnp.int32)

    def has_call(self, number: jax.Array) -> jax.Array:
        return number <= self._call_BT[-1, -1]

    def of_call(self, number: jax.Array | int) -> tuple[jax.Array, jax.Array]:
        """Returns a call's runs, int32: lengths [B, M], and offsets in tokens [B, M + 1].

        As in cuDNN the two are flat lists, of the device's whole stream: B * M lengths, 0 where there are no more runs,
        and B * M + 1 offsets; what JAX's shape of offsets leaves over is not read.
        """
        B, T = self._shape
        starts = jax.lax.dynamic_slice_in_dim(self._starts, number * self._taken, self._taken + 1)
        offsets = jnp.pad(starts, (0, B - 1), constant_values=B * T)
        return jnp.diff(starts).reshape(B, -1), offsets.reshape(B, -1)

    def select(self, number: jax.Array | int, results: Iterable[Any], others: Iterable[Any]) -> tuple[jax.Array, ...]:
        """Returns a call's results for the tokens of its runs, and others for the rest, which the kernel leaves."""
        its_BT11 = (self._call_BT == number)[:, :, None, None]
        pairs = zip(results, others, strict=True)
        return tuple(jnp.where(its_BT11, its, other) for its, other in pairs)

    def without_padding(self, x_BTHK: jax.Array) -> jax.Array:
        return jnp.where(self._segment_ids_BT[:, :, None, None] != 0, x_BTHK, jnp.zeros((), x_BTHK.dtype))


def runs_of_a_row(length: int) -> int:
    """Returns M, the runs that a call of the kernel takes for each row; cuDNN's layout begins at 2."""
    return max(2, length // _TOKENS_A_RUN)


def forward_kernel(q_BTHK, k_BTGK, v_BTGK, lengths_BM, offsets_BM1, *, scale, causal):
    """Returns the output [B, T, H, K] of the tokens in runs, and the softmax's statistics, float32 [B * M, H, T].

    Tokens in no run are left as the memory was.
    """
    of_runs = _of_runs(q_BTHK, k_BTGK, lengths_BM, offsets_BM1)
    return kernels()._dot_product_attention_fwd_p.bind(
        q_BTHK, k_BTGK, v_BTGK, *of_runs, **_options(scale, causal), is_training=True
    )


def backward_kernel(q_BTHK, k_BTGK, v_BTGK, stats, out_BTHK, dout_BTHK, lengths_BM, offsets_BM1, *, scale, causal):
    """Returns the gradients of queries, keys and values of the tokens in runs."""
    of_runs = _of_runs(q_BTHK, k_BTGK, lengths_BM, offsets_BM1)
    return kernels()._dot_product_attention_bwd_p.bind(
        q_BTHK, k_BTGK, v_BTGK, *of_runs, stats, out_BTHK, dout_BTHK, **_options(scale, causal)
    )


def _of_runs(q_BTHK, k_BTGK, lengths_BM, offsets_BM1):
    """Returns the operands between values and statistics: no bias, lengths, offsets in elements, and no pages."""
    nothing = jnp.zeros(0, q_BTHK.dtype)
    queries, keys = (offsets_BM1 * (x.shape[2] * x.shape[3]) for x in (q_BTHK, k_BTGK))
    return nothing, lengths_BM, lengths_BM, queries, keys, nothing, nothing


def _options(scale, causal):
    fused = kernels()
    mask_type = fused.MaskType.PADDING_CAUSAL if causal else fused.MaskType.PADDING
    return {
        "scale": scale, "seed": 42, "dropout_rate": 0.0, "variadic_args": (False, False), "mask_type": mask_type,
        "layout": fused.AttentionLayout.BTNH.value, "sliding_window_length": None,
    }  # fmt: skip


def _specs(q_BTHK, k_BTGK) -> tuple[PartitionSpec, PartitionSpec]:
    """Returns how queries, keys and values are split, and how the statistics are."""
    batch, heads = rows_and_heads(q_BTHK, k_BTGK)
    return PartitionSpec(batch, None, heads), PartitionSpec(batch, heads)


def _on_devices(function: Callable[..., Any], in_specs: Any, out_specs: Any) -> Callable[..., Any]:
    """Returns the function of one device's rows and heads as one of whole arrays, where there is a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or set(mesh.manual_axes) == set(mesh.axis_names):
        return function
    return on_parts(function, in_specs, out_specs)
