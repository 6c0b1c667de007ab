"""Experts over the mesh: each token's chosen experts, dropless, wherever the experts' parameters lie.

A device gathers the tokens of the devices along `expert`, computes those that chose its own experts, and the sums are
scattered back: this runs on every backend, and no token is dropped however uneven the choice. All axes are manual
here: a global sort of tokens, which the compiler would make of a program without a mesh, needs none. An expert's matrix
is gathered over `fsdp` in the compute dtype, once forward and once backward, and its gradient scattered in float32.

Shape letters: B batch, T length, D model width, E experts, F MLP width of an expert, K experts of a token, N tokens,
R = N K rows.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from transformer.ops.grouped import Matrices, grouped_dot, grouped_outer, sum_dtype
from transformer.parallel.local import dividing_axes, on_parts, scattered_sum
from transformer.parallel.rules import free_axes, on_one_device

Activation = Callable[[jax.Array], jax.Array]


def dropless(
    x_BTD: jax.Array,
    experts_BTK: jax.Array,
    weights_BTK: jax.Array,
    kernels: Mapping[str, Matrices],
    activation: Activation,
) -> jax.Array:
    """Returns [B, T, D]: the weighted sum of each token's experts, down(f(gate(x)) * up(x)) or down(f(up(x))).

    Args:
      x_BTD: the tokens, in the compute dtype.
      experts_BTK: int32: which experts a token goes to; E for none.
      weights_BTK: float32.
      kernels: `up` [E, D, F], `down` [E, F, D] and, where the experts are gated, `gate` [E, D, F].
      activation: f above.
    """
    if on_one_device():
        return _Device().mixture(x_BTD, experts_BTK, weights_BTK, kernels, activation)
    mesh = jax.sharding.get_abstract_mesh()
    split = free_axes(mesh.axis_names, mesh)
    # A dimension that is not divided (in decoding) is not split.
    axes = (dividing_axes("activation_batch", x_BTD.shape[0]), dividing_axes("activation_length", x_BTD.shape[1]))
    tokens = PartitionSpec(*axes, None)
    device = _Device(
        expert="expert" if "expert" in split else None,
        fsdp="fsdp" if "fsdp" in split else None,
        tensor="tensor" if "tensor" in split else None,
        splits_tokens="expert" in axes[0],
    )
    wide = _split(device.expert, device.fsdp, device.tensor, gain=device.tensor)
    narrow = _split(device.expert, device.tensor, device.fsdp, gain=None)
    # Of what may stand beside a matrix, what there is: arrays alone go over to the devices.
    there = {
        name: {field: array for field, array in matrices._asdict().items() if array is not None}
        for name, matrices in kernels.items()
    }
    specs = {
        name: {field: getattr(narrow if name == "down" else wide, field) for field in arrays}
        for name, arrays in there.items()
    }

    def local(x_BTD: jax.Array, experts_BTK: jax.Array, weights_BTK: jax.Array, there: Any) -> jax.Array:
        parts = {name: Matrices(**arrays) for name, arrays in there.items()}
        return device.mixture(x_BTD, experts_BTK, weights_BTK, parts, activation)

    return on_parts(local, (tokens, tokens, tokens, specs), tokens)(x_BTD, experts_BTK, weights_BTK, there)


def _split(expert: str | None, inputs: str | None, outputs: str | None, *, gain: str | None) -> Matrices:
    """Returns how the mesh splits matrices: what is split along the rank, nothing; gains where outputs stay split."""
    return Matrices(
        PartitionSpec(expert, inputs, outputs),
        PartitionSpec(expert, gain),
        PartitionSpec(expert, inputs, None),
        PartitionSpec(expert, None, outputs),
    )


@dataclasses.dataclass(frozen=True)
class _Device:
    """What one device of a mesh computes; an axis is None where the mesh does not split what it would split."""

    expert: str | None = None
    fsdp: str | None = None
    tensor: str | None = None
    splits_tokens: bool = False
    """Whether `expert` splits the batch, as it does where it divides it."""

    def mixture(
        self,
        x_BTD: jax.Array,
        experts_BTK: jax.Array,
        weights_BTK: jax.Array,
        kernels: Mapping[str, Matrices],
        activation: Activation,
    ) -> jax.Array:
        """Returns this device's tokens' sums, [B, T, D]; arguments as `dropless`', this device's parts."""
        num_experts = kernels["up"].kernel_EDF.shape[0]
        if self.expert is not None:
            if self.splits_tokens:
                of_all: Any = [_all_rows(self.expert, array) for array in (x_BTD, weights_BTK)]
                x_BTD, weights_BTK = of_all
                experts_BTK = jax.lax.all_gather(experts_BTK, self.expert, axis=0, tiled=True)
            local_BTK = experts_BTK - jax.lax.axis_index(self.expert).astype(jnp.int32) * num_experts
            mine_BTK = (local_BTK >= 0) & (local_BTK < num_experts)
            experts_BTK = jnp.where(mine_BTK, local_BTK, num_experts)
        (*lead, width), num_chosen = x_BTD.shape, experts_BTK.shape[-1]
        y_ND = self._tokens(
            x_BTD.reshape(-1, width),
            experts_BTK.reshape(-1, num_chosen),
            weights_BTK.reshape(-1, num_chosen),
            kernels,
            activation,
        )
        y_BTD = y_ND.reshape(*lead, width)
        if self.expert is not None and self.splits_tokens:
            y_BTD = scattered_sum(y_BTD, self.expert, dimension=0)
        elif self.expert is not None:
            y_BTD = jax.lax.psum(y_BTD, self.expert)
        return y_BTD if self.tensor is None else jax.lax.psum(y_BTD, self.tensor)

    def _tokens(self, x_ND, experts_NK, weights_NK, kernels: Mapping[str, Any], activation: Activation) -> jax.Array:
        """Returns [N, D]: rows sorted by expert, computed, and brought back."""
        num_experts = kernels["up"].kernel_EDF.shape[0]
        experts_R = experts_NK.reshape(-1)
        order_R = jnp.argsort(experts_R, stable=True).astype(jnp.int32)
        place_R = jnp.argsort(order_R).astype(jnp.int32)
        sizes_E = (experts_R[:, None] == jnp.arange(num_experts, dtype=jnp.int32)[None]).sum(axis=0, dtype=jnp.int32)
        rows_RD = _to_rows(x_ND, order_R, place_R)
        sorted_R = jnp.minimum(jnp.asarray(experts_R)[order_R], num_experts - 1)
        hidden_RF: Any = self._multiplied(1, rows_RD, kernels["up"], sizes_E, sorted_R)
        if "gate" in kernels:
            gate_RF: Any = self._multiplied(1, rows_RD, kernels["gate"], sizes_E, sorted_R)
            hidden_RF = activation(gate_RF) * hidden_RF
        else:
            hidden_RF = activation(hidden_RF)
        out_RD = self._multiplied(2, hidden_RF, kernels["down"], sizes_E, sorted_R)
        out_RD = _from_rows(out_RD, order_R, place_R)
        out_NKD = out_RD.reshape(*weights_NK.shape, -1)
        return (out_NKD.astype(sum_dtype(out_NKD)) * weights_NK[:, :, None]).sum(axis=1).astype(x_ND.dtype)

    def _multiplied(self, axis: int, x_RD, matrices: Matrices, sizes_E: jax.Array, expert_R: jax.Array) -> Any:
        """Returns [R, F]: rows times their experts' matrices, whose axis `axis` fsdp splits."""
        kernel_EDF, gain_EF, a_EDR, b_ERF = matrices
        if matrices.is_trained:
            return _product(self.fsdp, axis, x_RD, kernel_EDF, sizes_E)
        y_RF: Any = _frozen_product(self.fsdp, axis, x_RD, kernel_EDF, sizes_E)
        if gain_EF is not None:
            y_RF = (y_RF.astype(jnp.float32) * gain_EF[expert_R]).astype(y_RF.dtype)
        if a_EDR is None:
            return y_RF
        fsdp_a, fsdp_b = (self.fsdp, None) if axis == 1 else (None, self.fsdp)
        narrow_RR: Any = _product(fsdp_a, 1, x_RD, a_EDR, sizes_E)
        return y_RF + _product(fsdp_b, 2, narrow_RR, b_ERF, sizes_E)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _all_rows(axis: str, x: jax.Array) -> jax.Array:
    """Returns the rows of all devices along a mesh axis; backward is a `scattered_sum`."""
    return jax.lax.all_gather(x, axis, axis=0, tiled=True)


_all_rows.defvjp(
    lambda axis, x: (_all_rows(axis, x), None),
    lambda axis, _, dy: (scattered_sum(dy, axis, dimension=0),),
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _product(fsdp: str | None, axis: int, x_RD: jax.Array, kernel_EDF: jax.Array, sizes_E: jax.Array) -> jax.Array:
    """Returns [R, F]: rows times their experts' matrices.

    Args:
      fsdp: mesh axis that splits the matrices, if any.
      axis: which axis of them it splits.
      x_RD: rows sorted by expert.
      kernel_EDF: float32, this device's part; its gradient is summed in float32, between devices too.
      sizes_E: int32: rows of each expert.
    """
    return grouped_dot(x_RD, _gathered(fsdp, axis, kernel_EDF, x_RD.dtype), sizes_E)


def _product_forward(fsdp, axis, x_RD, kernel_EDF, sizes_E):
    return _product(fsdp, axis, x_RD, kernel_EDF, sizes_E), (x_RD, kernel_EDF, sizes_E)


def _product_backward(fsdp, axis, residuals, dy_RF):
    x_RD, kernel_EDF, sizes_E = residuals
    kernel_EFD = jnp.swapaxes(_gathered(fsdp, axis, kernel_EDF, dy_RF.dtype), 1, 2)
    dkernel_EDF = grouped_outer(x_RD, dy_RF, sizes_E)
    if fsdp is not None:
        dkernel_EDF = scattered_sum(dkernel_EDF, fsdp, dimension=axis)
    return grouped_dot(dy_RF, kernel_EFD, sizes_E), dkernel_EDF, None


_product.defvjp(_product_forward, _product_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _frozen_product(
    fsdp: str | None, axis: int, x_RD: jax.Array, kernel_EDF: jax.Array, sizes_E: jax.Array
) -> jax.Array:
    """Returns what `_product` does; the matrices, in any dtype, have no gradient, and are kept as they are held."""
    return grouped_dot(x_RD, _gathered(fsdp, axis, kernel_EDF, x_RD.dtype), sizes_E)


def _frozen_backward(fsdp, axis, residuals, dy_RF):
    kernel_EDF, sizes_E = residuals
    kernel_EFD = jnp.swapaxes(_gathered(fsdp, axis, kernel_EDF, dy_RF.dtype), 1, 2)
    return grouped_dot(dy_RF, kernel_EFD, sizes_E), None, None


_frozen_product.defvjp(
    lambda fsdp, axis, x, kernel, sizes: (_frozen_product(fsdp, axis, x, kernel, sizes), (kernel, sizes)),
    _frozen_backward,
)


def _gathered(fsdp: str | None, axis: int, kernel_EDF: jax.Array, dtype: Any) -> jax.Array:
    kernel_EDF = kernel_EDF.astype(dtype)
    return kernel_EDF if fsdp is None else jax.lax.all_gather(kernel_EDF, fsdp, axis=axis, tiled=True)


# The places are a permutation: backward is a look-up too, where differentiating a look-up would scatter.


@jax.custom_vjp
def _to_rows(x_ND: jax.Array, order_R: jax.Array, place_R: jax.Array) -> jax.Array:
    """Returns [R, D]: each token once for each of its experts, in the order of the experts."""
    return x_ND[order_R // (place_R.shape[0] // x_ND.shape[0])]


def _to_rows_backward(residuals, dy_RD):
    place_R, num_tokens = residuals
    dx_NKD = dy_RD[place_R].reshape(num_tokens, -1, dy_RD.shape[-1])
    return dx_NKD.astype(sum_dtype(dx_NKD)).sum(axis=1).astype(dy_RD.dtype), None, None


_to_rows.defvjp(lambda x, order, place: (_to_rows(x, order, place), (place, x.shape[0])), _to_rows_backward)


@jax.custom_vjp
def _from_rows(y_RD: jax.Array, order_R: jax.Array, place_R: jax.Array) -> jax.Array:
    """Returns [R, D]: the rows in the order of the tokens."""
    return y_RD[place_R]


_from_rows.defvjp(lambda y, order, place: (y[place], order), lambda order, dy: (dy[order], None, None))
