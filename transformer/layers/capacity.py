"""Experts of a limited capacity: each takes so many choices of a row, and the rest pass by it.

The counts are a row's own (Lepikhin et al. 2021, "GShard", algorithm 1, whose groups are rows here), so that what is
dropped depends on no mesh. Buffers are of one size whatever the choice: rows over `expert` become experts over `expert`
by an all-to-all each way.

Shape letters: B batch, T length, D model width, E experts, K experts of a token, F MLP width, C capacity, A = T K.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from transformer.layers.low_rank import scaled_outputs
from transformer.ops.grouped import Matrices
from transformer.parallel.rules import constrain

_BUFFER = ("activation_expert_batch", "activation_experts", None)


def limited(
    x_BTD: jax.Array,
    experts_BTK: jax.Array,
    weights_BTK: jax.Array,
    kernels: Mapping[str, Matrices],
    activation: Callable[[jax.Array], jax.Array],
    capacity: int,
) -> tuple[jax.Array, jax.Array]:
    """Returns [B, T, D], the weighted sum of each token's experts that had room, and how many choices had none.

    First choices come before second ones, and earlier tokens before later ones. Arguments as `dropless`', and:
      capacity: C.
    """
    batch, length, width = x_BTD.shape
    num_experts = kernels["up"].kernel_EDF.shape[0]
    place_BTK = _places(experts_BTK, num_experts)
    chosen_BTK = experts_BTK < num_experts
    taken_BTK = chosen_BTK & (place_BTK < capacity)
    dropped = (chosen_BTK & ~taken_BTK).sum(dtype=jnp.int32).astype(jnp.float32)
    # A slot of the buffers for each choice; those without one share the slot behind the last.
    slots = num_experts * capacity
    slot_BA = jnp.where(taken_BTK, experts_BTK * capacity + place_BTK, slots).reshape(batch, -1)
    row_B1 = jnp.arange(batch, dtype=jnp.int32)[:, None]
    token_A = jnp.arange(slot_BA.shape[1], dtype=jnp.int32) // experts_BTK.shape[-1]
    token_BS = jnp.full((batch, slots + 1), length, jnp.int32)
    token_BS = token_BS.at[row_B1, slot_BA].set(jnp.broadcast_to(token_A[None], slot_BA.shape))[:, :slots]
    padded_BTD = jnp.pad(x_BTD, ((0, 0), (0, 1), (0, 0)))  # a token of zeros for slots that nothing takes
    x_BSD = jnp.take_along_axis(padded_BTD, token_BS[:, :, None], axis=1)
    x_BECD = constrain(x_BSD.reshape(batch, num_experts, capacity, width), *_BUFFER, None)
    hidden_BECF = _multiplied(x_BECD, kernels["up"])
    if "gate" in kernels:
        hidden_BECF = activation(_multiplied(x_BECD, kernels["gate"])) * hidden_BECF
    else:
        hidden_BECF = activation(hidden_BECF)
    out_BECD = _multiplied(constrain(hidden_BECF, *_BUFFER, "activation_mlp"), kernels["down"])
    out_BSD = constrain(out_BECD, *_BUFFER, None).reshape(batch, slots, width)
    out_BSD = constrain(out_BSD, "activation_batch", None, None)
    slot_BA = jnp.minimum(slot_BA, slots - 1)
    out_BTKD = jnp.take_along_axis(out_BSD, slot_BA[:, :, None], axis=1).reshape(*experts_BTK.shape, width)
    weights_BTK = jnp.where(taken_BTK, weights_BTK, jnp.float32(0))
    y_BTD = (out_BTKD.astype(jnp.float32) * weights_BTK[..., None]).sum(axis=2)
    return y_BTD.astype(x_BTD.dtype), dropped


def _places(experts_BTK: jax.Array, num_experts: int) -> jax.Array:
    """Returns int32 [B, T, K]: how many choices of the row come before this one at its expert."""
    batch, length, chosen = experts_BTK.shape
    experts_BA = jnp.swapaxes(experts_BTK, 1, 2).reshape(batch, -1)  # first choices first
    hits_BAE = experts_BA[:, :, None] == jnp.arange(num_experts, dtype=jnp.int32)[None, None]
    before_BAE = jnp.cumsum(hits_BAE, axis=1, dtype=jnp.int32) - 1
    place_BA = jnp.where(hits_BAE, before_BAE, 0).sum(axis=-1, dtype=jnp.int32)
    return jnp.swapaxes(place_BA.reshape(batch, chosen, length), 1, 2)


def _multiplied(x_BECD: jax.Array, matrices: Matrices) -> jax.Array:
    """Returns [B, E, C, F]: each expert's tokens times its matrix, with what stands beside it."""
    kernel_EDF, gain_EF, a_EDR, b_ERF = matrices
    if matrices.is_trained:
        return _product(x_BECD, kernel_EDF)
    y_BECF = _frozen_product(x_BECD, kernel_EDF)
    if gain_EF is not None:
        y_BECF = scaled_outputs(y_BECF, gain_EF[:, None])
    return y_BECF if a_EDR is None else y_BECF + _product(_product(x_BECD, a_EDR), b_ERF)


@jax.custom_vjp
def _product(x_BECD: jax.Array, kernel_EDF: jax.Array) -> jax.Array:
    """Returns [B, E, C, F] in the dtype of `x`; the gradient of the float32 kernel is summed in float32."""
    return jnp.einsum("BECD,EDF->BECF", x_BECD, kernel_EDF.astype(x_BECD.dtype))


def _product_backward(residuals: tuple[jax.Array, jax.Array], dy_BECF: jax.Array):
    x_BECD, kernel_EDF = residuals
    dx_BECD = jnp.einsum("BECF,EDF->BECD", dy_BECF, kernel_EDF.astype(dy_BECF.dtype))
    return dx_BECD, jnp.einsum("BECD,BECF->EDF", x_BECD, dy_BECF, preferred_element_type=jnp.float32)


_product.defvjp(lambda x, kernel: (_product(x, kernel), (x, kernel)), _product_backward)


@jax.custom_vjp
def _frozen_product(x_BECD: jax.Array, kernel_EDF: jax.Array) -> jax.Array:
    """Returns what `_product` does; the kernel, in any dtype, has no gradient, and is kept as it is held."""
    return jnp.einsum("BECD,EDF->BECF", x_BECD, kernel_EDF.astype(x_BECD.dtype))


_frozen_product.defvjp(
    lambda x, kernel: (_frozen_product(x, kernel), kernel),
    lambda kernel_EDF, dy: (jnp.einsum("BECF,EDF->BECD", dy, kernel_EDF.astype(dy.dtype)), None),
)
