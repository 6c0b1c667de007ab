"""What stands beside a kernel: the low-rank factors of an adapter, and the scales of a kernel that is held in int8.

LoRA (Hu et al. 2021, equation 3) adds to x W a product with two narrow matrices, x A B. DoRA (Liu et al. 2024, equation
5) gives every output a learnt length too: the columns of W + A B are brought to it. Whoever runs a model gives these
arrays as collections of variables beside "params", under the same modules; the parameters of an architecture are the
same with them and without.

Shape letters: L stacked axes (layers, experts; perhaps none), I inputs, O outputs, R rank. I and O may be several axes.
"""

import contextvars
import math
from contextlib import AbstractContextManager
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.ops.tracing import within

ADAPTER, SCALES = "adapter", "scales"
"""Collections of variables: an adapter's `a`, `b` and, with DoRA, `magnitude`; the `kernel`'s scales."""
BESIDE = ((ADAPTER, "a"), (SCALES, "kernel"))
"""Collection and name of what stands beside a kernel, if anything does."""
COLLECTIONS = ("params", ADAPTER, SCALES)
"""All that a layer reads, stacked like its parameters."""


class Beside(NamedTuple):
    """What stands beside a kernel W: its product becomes gain * (x W) + (x A) B."""

    gain_O: jax.Array | None
    """float32; None: 1."""
    a_IR: jax.Array | None
    """float32; None: there are no factors."""
    b_RO: jax.Array | None
    """float32, with the gain already in it."""


def beside(module: nn.Module, kernel_IO: jax.Array, *, stacked: int = 0, inputs: int = 1) -> Beside | None:
    """Returns what the collections have for the kernel of a module; None: nothing, the kernel alone is multiplied.

    Args:
      module: that has the kernel.
      kernel_IO: as it is held: float32, bfloat16, or int8, which has scales.
      stacked: its first axes, along which matrices lie one behind another.
      inputs: axes of inputs, which come next.
    """
    scale_O = module.get_variable(SCALES, "kernel") if module.has_variable(SCALES, "kernel") else None
    if not module.has_variable(ADAPTER, "a"):
        return None if scale_O is None else Beside(scale_O, None, None)
    a_IR, b_RO = module.get_variable(ADAPTER, "a"), module.get_variable(ADAPTER, "b")
    if not module.has_variable(ADAPTER, "magnitude"):
        return Beside(scale_O, a_IR, b_RO)
    magnitude_O = module.get_variable(ADAPTER, "magnitude")
    held_IO = dequantised(kernel_IO, scale_O, stacked=stacked, inputs=inputs)
    # The length is a constant of the gradient (section 4.3).
    length_O = jax.lax.stop_gradient(lengths(held_IO + product(a_IR, b_RO, stacked), stacked=stacked, inputs=inputs))
    gain_O = magnitude_O / length_O
    b_RO *= jnp.expand_dims(gain_O, stacked)
    return Beside(gain_O if scale_O is None else gain_O * scale_O, a_IR, b_RO)


def product(a_IR: jax.Array, b_RO: jax.Array, stacked: int = 0) -> jax.Array:
    """Returns A B, [*I, *O] after the stacked axes."""
    if stacked:
        return jax.vmap(lambda a, b: product(a, b, stacked - 1))(a_IR, b_RO)
    return jax.lax.dot_general(a_IR, b_RO, (((a_IR.ndim - 1,), (0,)), ((), ())), precision=jax.lax.Precision.HIGHEST)


def lengths(kernel_IO: jax.Array, *, stacked: int = 0, inputs: int = 1) -> jax.Array:
    """Returns the Euclidean length of each output's weights, float32 [*O] after the stacked axes."""
    return jnp.sqrt(jnp.square(kernel_IO).sum(axis=_inputs(stacked, inputs)))


def merged(
    kernel_IO: jax.Array,
    a_IR: jax.Array,
    b_RO: jax.Array,
    magnitude_O: jax.Array | None,
    *,
    stacked: int = 0,
    inputs: int = 1,
) -> jax.Array:
    """Returns the kernel that alone does what it does with its factors."""
    kernel_IO += product(a_IR, b_RO, stacked)
    if magnitude_O is None:
        return kernel_IO
    gain_O = magnitude_O / lengths(kernel_IO, stacked=stacked, inputs=inputs)
    return kernel_IO * jnp.expand_dims(gain_O, _inputs(stacked, inputs))


def quantised(kernel_IO: jax.Array, *, stacked: int = 0, inputs: int = 1) -> tuple[jax.Array, jax.Array]:
    """Returns a kernel in int8, and the float32 scale of each output: its largest magnitude is 127."""
    axes = _inputs(stacked, inputs)
    scale_O = jnp.abs(kernel_IO).max(axis=axes) / 127
    scale_O = jnp.where(scale_O > 0, scale_O, jnp.float32(1))
    return jnp.round(kernel_IO / jnp.expand_dims(scale_O, axes)).astype(jnp.int8), scale_O


def dequantised(kernel_IO: jax.Array, scale_O: jax.Array | None, *, stacked: int = 0, inputs: int = 1) -> jax.Array:
    """Returns a held kernel in float32."""
    kernel_IO = kernel_IO.astype(jnp.float32)
    return kernel_IO if scale_O is None else kernel_IO * jnp.expand_dims(scale_O, _inputs(stacked, inputs))


def scaled_outputs(y: jax.Array, gain: jax.Array) -> jax.Array:
    """Returns y * gain in the dtype of `y`; multiplied in float32, in which a gain's gradient is then summed."""
    gain = jnp.expand_dims(gain, tuple(range(y.ndim - gain.ndim)))
    return (y.astype(jnp.float32) * gain).astype(y.dtype)


def initial_a(key: jax.Array, shape: tuple[int, ...], stacked: int) -> jax.Array:
    """Returns A as it begins, uniform within 1 / sqrt(inputs) (He et al. 2015 with a = sqrt(5), as PEFT); B is 0."""
    bound = math.prod(shape[stacked:-1]) ** -0.5
    return jax.random.uniform(key, shape, jnp.float32, -bound, bound)


_dropout: contextvars.ContextVar[float] = contextvars.ContextVar("dropout", default=0.0)


def adapter_dropout(rate: float) -> AbstractContextManager[None]:
    """Within, what goes into A is dropped with this probability."""
    return within(_dropout, rate)


def dropout_rate() -> float:
    """Returns the probability of `adapter_dropout` here; 0 outside of any."""
    return _dropout.get()


def _inputs(stacked: int, inputs: int) -> tuple[int, ...]:
    return tuple(range(stacked, stacked + inputs))
