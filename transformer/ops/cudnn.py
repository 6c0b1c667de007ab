"""Attention by cuDNN's fused kernel on NVIDIA GPUs, through JAX's own entry.

Shape letters: B batch, T query length, S key length, H query heads, G key-value heads, K head width.
"""

import jax
import jax.numpy as jnp

from transformer.errors import UserError
from transformer.ops.elementwise import scaled


def cudnn_attention(q_BTHK, k_BSGK, v_BSGK, mask, bias, scale, dropout_rate, key):
    """Returns [B, T, H, K], as every implementation of `ops.attention`; float16 and bfloat16 only.

    Index causality and a causal window go to the kernel, which skips what they mask. Segments, positions and prefixes
    go in as a dense mask, which costs the kernel a [B, 1, T, S] bias: batches without them (None) are the fastest.
    """
    if key is not None:
        raise UserError("attention implementation 'cudnn' has no dropout: set dropout to 0, or choose 'xla'")
    if q_BTHK.dtype not in (jnp.bfloat16, jnp.float16):
        raise UserError(f"attention implementation 'cudnn' computes bfloat16 or float16, not {q_BTHK.dtype}")
    in_kernel = mask.aligned and mask.causal and mask.kv_prefix_BS is None
    rest = mask.replace(causal=False, window=None) if in_kernel else mask
    dense_B1TS = rest.dense(q_BTHK.shape[1], k_BSGK.shape[1])
    if isinstance(scale, jax.Array):  # the kernel's is a constant of the program
        q_BTHK, scale = scaled(q_BTHK, scale), 1.0
    # JAX counts the neighbours on each side, the token itself apart: a window of w tokens is w - 1 to the left.
    window = (mask.window - 1, 0) if in_kernel and mask.window is not None else None
    out_BTHK = jax.nn.dot_product_attention(
        q_BTHK,
        k_BSGK,
        v_BSGK,
        bias=None if bias is None else bias.astype(q_BTHK.dtype),
        mask=dense_B1TS,
        scale=scale,
        is_causal=in_kernel,
        local_window_size=window,
        implementation="cudnn",
    )
    if dense_B1TS is None:
        return out_BTHK
    # The kernel gives a query that sees no key an average of all values.
    sees_BT11 = dense_B1TS.any(axis=-1)[:, 0, :, None, None]
    return jnp.where(sees_BT11, out_BTHK, jnp.zeros((), out_BTHK.dtype))
