"""Attention by cuDNN's fused kernel on NVIDIA GPUs, through JAX's own entry.

Shape letters: B batch, T query length, S key length, H query heads, G key-value heads, K head width.
"""

import contextlib
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from transformer.errors import UserError
from transformer.ops.elementwise import scaled
from transformer.parallel.local import (
    divides,
    dividing_axes,
    on_parts,
    partly_local,
    splitting_axes,
    target_capability,
    target_platform,
)


def widest_head() -> int:
    """Returns the widest head for which there is a kernel on the GPUs that are compiled for: since Hopper, 256."""
    return 256 if target_capability() >= (9, 0) else 128


@functools.cache
def kernels() -> Any:
    """Returns JAX's private module of the kernels, which asks the target what it can do, once this is called.

    By itself it asks the GPU of this machine, and where there is none refuses what the target's can do.
    """
    from jax._src.cudnn import fused_attention_stablehlo as fused

    fused.check_compute_capability = _target_has
    return fused


def _target_has(capability: str) -> bool:
    major, minor = capability.split(".")
    return target_platform() == "gpu" and target_capability() >= (int(major), int(minor))


def cudnn_attention(q_BTHK, k_BSGK, v_BSGK, mask, bias, scale, dropping):
    """Returns [B, T, H, K], as every implementation of `ops.attention`; float16 and bfloat16 only.

    Index causality and a causal window go to the kernel, which skips what they mask. Segments, positions and prefixes
    go in as a dense mask, which costs the kernel a [B, 1, T, S] bias: batches without them (None) are the fastest.
    """
    if dropping is not None:
        raise UserError("attention implementation 'cudnn' has no dropout: set dropout to 0, or choose 'xla'")
    check_dtype(q_BTHK)
    with contextlib.suppress(ImportError):  # another JAX, which then asks this machine
        kernels()
    if splitting_axes("activation_length"):
        raise UserError(
            "attention implementation 'cudnn' cannot split a sequence over devices: choose 'xla', or --mesh.sequence 1"
        )
    in_kernel = mask.aligned and mask.causal and mask.kv_prefix_BS is None
    rest = mask.replace(causal=False, window=None) if in_kernel else mask
    dense_B1TS = rest.dense(q_BTHK.shape[1], k_BSGK.shape[1])
    if isinstance(scale, jax.Array):  # the kernel's is a constant of the program
        q_BTHK, scale = scaled(q_BTHK, scale), 1.0
    # JAX counts the neighbours on each side, the token itself apart: a window of w tokens is w - 1 to the left.
    window = (mask.window - 1, 0) if in_kernel and mask.window is not None else None
    bias = None if bias is None else bias.astype(q_BTHK.dtype)
    kernel = functools.partial(_kernel, scale=scale, is_causal=in_kernel, local_window_size=window)
    if partly_local():  # JAX's partitioning of the kernel knows all mesh axes or none
        kernel = _on_parts(kernel, q_BTHK, k_BSGK, bias, dense_B1TS)
    out_BTHK = kernel(q_BTHK, k_BSGK, v_BSGK, bias, dense_B1TS)
    if dense_B1TS is None:
        return out_BTHK
    # The kernel gives a query that sees no key an average of all values.
    sees_BT11 = dense_B1TS.any(axis=-1)[:, 0, :, None, None]
    return jnp.where(sees_BT11, out_BTHK, jnp.zeros((), out_BTHK.dtype))


def check_dtype(q_BTHK: jax.Array) -> None:
    """Raises `UserError` where cuDNN has no kernel for the dtype."""
    if q_BTHK.dtype not in (jnp.bfloat16, jnp.float16):
        raise UserError(f"attention implementation 'cudnn' computes bfloat16 or float16, not {q_BTHK.dtype}")


def _kernel(q_BTHK, k_BSGK, v_BSGK, bias, mask, **options):
    return jax.nn.dot_product_attention(q_BTHK, k_BSGK, v_BSGK, bias=bias, mask=mask, implementation="cudnn", **options)


def rows_and_heads(q_BTHK, k_BSGK) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the mesh axes that divide the rows of such arrays, and those that divide their heads."""
    batch, heads = (
        dividing_axes("activation_batch", q_BTHK.shape[0]),
        dividing_axes("activation_heads", q_BTHK.shape[2]),
    )
    return batch, heads if divides(heads, k_BSGK.shape[2]) else ()


def _on_parts(kernel, q_BTHK, k_BSGK, bias, mask):
    """Returns the kernel, each device taking its rows and heads of whole arrays such as these."""
    batch, heads = rows_and_heads(q_BTHK, k_BSGK)

    def of_scores(x):  # [B or 1, H or 1, T, S]
        return None if x is None else PartitionSpec(batch if x.shape[0] > 1 else (), heads if x.shape[1] > 1 else ())

    rows = PartitionSpec(batch, None, heads)
    return on_parts(kernel, (rows, rows, rows, of_scores(bias), of_scores(mask)), rows)
