"""The matrix product with weights, whose parameters' gradients are summed in float32.

Parameters are float32 and are cast for the product. From that, automatic differentiation would make sums in the
product's dtype: of a bias's gradient over batch and length, where a bfloat16 sum stands still once it is 256 times as
large as what is added; and of a kernel's gradient over devices, each of which would round its part first.
"""

import functools

import jax
import jax.numpy as jnp


def _linear(x: jax.Array, kernel: jax.Array, bias: jax.Array | None, num_inputs: int) -> jax.Array:
    """Returns x W + b, [..., *outputs], computed in the dtype of `x`.

    Args:
      x: [..., *inputs], float32 or 16 bits.
      kernel: float32 [*inputs, *outputs]. Its gradient is float32 from the product on, also between devices.
      bias: float32 [*outputs], or None. Its gradient's sums are in float32.
      num_inputs: dimensions that are summed over: the last of `x`, the first of `kernel`.
    """
    inputs = tuple(range(x.ndim - num_inputs, x.ndim)), tuple(range(num_inputs))
    y = jax.lax.dot_general(x, kernel.astype(x.dtype), (inputs, ((), ())))
    if bias is not None:
        y += jnp.expand_dims(bias.astype(y.dtype), tuple(range(y.ndim - bias.ndim)))
    return y


def _forward(x: jax.Array, kernel: jax.Array, bias: jax.Array | None, num_inputs: int):
    # Not by way of `linear`: a policy of rematerialisation is to see the product.
    return _linear(x, kernel, bias, num_inputs), (x, kernel, bias)


def _backward(num_inputs: int, residuals: tuple[jax.Array, jax.Array, jax.Array | None], dy: jax.Array):
    x, kernel, bias = residuals
    rows = tuple(range(x.ndim - num_inputs))
    outputs = tuple(range(len(rows), dy.ndim)), tuple(range(num_inputs, kernel.ndim))
    dx = jax.lax.dot_general(dy, kernel.astype(dy.dtype), (outputs, ((), ())))
    dkernel = jax.lax.dot_general(x, dy, ((rows, rows), ((), ())), preferred_element_type=jnp.float32)
    return dx, dkernel, dy.astype(jnp.float32).sum(rows) if bias is not None else None


linear = functools.partial(jax.custom_vjp, nondiff_argnums=(3,))(_linear)
linear.defvjp(_forward, _backward)
