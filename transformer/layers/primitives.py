"""The modules with weights of their own that all else is made of: linear, embedding, norms; and dropout.

Every parameter is born here or through `parameter`: in float32, with a logical name for each axis. Norms are computed
in float32 whatever the compute dtype, and keep only their input for the backward pass; what is computed again is a pass
over an array that is read anyway.
"""

import contextvars
import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.layers.low_rank import BESIDE, beside, dropout_rate, scaled_outputs
from transformer.ops.eight_bits import BACKWARD, FORWARD, EightBits, eight_bits
from transformer.ops.elementwise import dropout
from transformer.ops.embedding import look_up
from transformer.ops.outer import summed_outer
from transformer.ops.tracing import within
from transformer.parallel.rules import check_names, constrain, on_one_device

Initializer = Callable[..., jax.Array]


def parameter(
    module: nn.Module, name: str, init: Initializer, axes: tuple[str, ...], shape: tuple[int, ...]
) -> jax.Array:
    """Returns the float32 parameter `name` [*shape] of a module, its axes named; an unknown axis raises `KeyError`."""
    value = held(module, name, init, axes, shape)
    return value if value.dtype.itemsize >= 4 else value.astype(jnp.float32)


def held(module: nn.Module, name: str, init: Initializer, axes: tuple[str, ...], shape: tuple[int, ...]) -> jax.Array:
    """Returns the parameter as it is held: in float32, but for frozen ones, which may be in a narrower dtype."""
    check_names(axes, f"parameter {name!r}")
    return cast(jax.Array, module.param(name, nn.with_logical_partitioning(init, axes), shape, jnp.float32))


class Linear(nn.Module):
    """y = x W + b, over one or more input and output dimensions.

    The kernel is [*inputs, *outputs] and the bias [*outputs], both float32: a projection to heads is [D, H, K], so that
    a mesh can split heads without knowing how they are packed. An adapter's factors and what else may stand beside a
    kernel that is not trained are `low_rank`'s.
    """

    outputs: tuple[int, ...]
    """Sizes of the output dimensions."""
    names: tuple[str, ...]
    """Logical axis names of the kernel, inputs then outputs."""
    dtype: Any
    """Dtype of the product."""
    use_bias: bool = True
    kernel_init: Initializer = nn.initializers.normal(0.02)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [..., *outputs] for `x` [..., *inputs]."""
        num_inputs = len(self.names) - len(self.outputs)
        shape = (*x.shape[x.ndim - num_inputs :], *self.outputs)
        kernel = held(self, "kernel", self.kernel_init, self.names, shape)
        bias, output_names = None, self.names[num_inputs:]
        if self.use_bias:
            bias = parameter(self, "bias", nn.initializers.zeros_init(), output_names, self.outputs)
        x, recomputed = x.astype(self.dtype), _recomputed.get()
        stands_alone = not any(self.has_variable(*place) for place in BESIDE)
        if stands_alone and kernel.dtype.itemsize >= 4:
            product = eight_bit_linear if _eight_bits.get() else linear
            return product(x, kernel, bias, num_inputs, self.names, recomputed)
        added = beside(self, kernel, inputs=num_inputs)
        y: Any = frozen_linear(x, kernel, num_inputs, self.names, recomputed)
        if added is not None and added.gain_O is not None:
            y = scaled_outputs(y, added.gain_O)
        if added is None or added.a_IR is None or added.b_RO is None:
            if bias is None or added is None:
                return _biased(y, bias)  # rounded as beside a kernel that is trained
            return _biased(y.astype(jnp.float32), bias).astype(y.dtype)
        if rate := dropout_rate():
            x = dropout(x, rate, self.make_rng("dropout"))
        narrow = linear(x, added.a_IR, None, num_inputs, (*self.names[:num_inputs], "rank"), recomputed)
        return y + linear(narrow, added.b_RO, bias, 1, ("rank", *output_names), recomputed)


class Embedding(nn.Module):
    """A row of a float32 table [size, D] for each id.

    Ids outside [0, size) take the nearest row: models check what can be checked from shapes. The gradient is XLA's
    scatter-add, 150 times as fast as a one-hot product on a CPU.
    """

    size: int
    width: int
    names: tuple[str, str]
    """Logical axis names of the table: ("vocab", "embed"), ("positions", "embed"), ..."""
    dtype: Any
    init: Initializer = nn.initializers.normal(0.02)

    def setup(self):
        self.embedding = parameter(self, "embedding", self.init, self.names, (self.size, self.width))

    def __call__(self, ids_BT: jax.Array) -> jax.Array:
        """Returns [B, T, D] in the compute dtype."""
        if on_one_device():
            return jnp.take(self.embedding, ids_BT, axis=0, mode="clip").astype(self.dtype)
        return look_up(self.embedding, ids_BT, self.dtype, self.names)


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(variance + epsilon) * scale + bias: Ba, Kiros and Hinton 2016, equation 4."""

    epsilon: float
    dtype: Any
    """Dtype of the output."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `x` [..., D] normalised over D."""
        scale, bias = _vector(self, "scale", 1.0, x), _vector(self, "bias", 0.0, x)
        return _layer_norm(x, scale, bias, self.epsilon).astype(self.dtype)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + epsilon) * scale: Zhang and Sennrich 2019, equation 4 (T5, LLaMA)."""

    epsilon: float
    dtype: Any
    """Dtype of the output."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `x` [..., D] normalised over D."""
        return _rms_norm(x, _vector(self, "scale", 1.0, x), self.epsilon).astype(self.dtype)


class LayerScale(nn.Module):
    """x * scale, a factor a channel: Touvron et al. 2021, "Going deeper with image Transformers", equation 4."""

    initial: float
    """What every factor starts at."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `x` [..., D], scaled, in its dtype."""
        # In float32: a gradient of a factor is a sum over all tokens.
        return (x.astype(jnp.float32) * _vector(self, "scale", self.initial, x)).astype(x.dtype)


class Dropout(nn.Module):
    """Zeroes elements with probability `rate` in training."""

    rate: float

    def __call__(self, x: jax.Array, *, deterministic: bool) -> jax.Array:
        """Returns `x`, with dropout unless `deterministic`; no random stream is needed where nothing is dropped."""
        if deterministic or self.rate == 0.0:
            return x
        return dropout(x, self.rate, self.make_rng("dropout"))


@functools.partial(jax.checkpoint, prevent_cse=False, static_argnums=(3,))
def _layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    x = x.astype(jnp.float32)
    x -= x.mean(axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + epsilon) * scale + bias


@functools.partial(jax.checkpoint, prevent_cse=False, static_argnums=(2,))
def _rms_norm(x: jax.Array, scale: jax.Array, epsilon: float) -> jax.Array:
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + epsilon) * scale


def _vector(module: nn.Module, name: str, value: float, x: jax.Array) -> jax.Array:
    """Returns a float32 parameter [D], shaped to broadcast against `x` [..., D]."""
    vector_D = parameter(module, name, nn.initializers.constant(value), ("embed",), x.shape[-1:])
    return jnp.expand_dims(vector_D, tuple(range(x.ndim - 1)))


_recomputed: contextvars.ContextVar[bool] = contextvars.ContextVar("recomputed", default=False)


def recomputed(value: bool) -> AbstractContextManager[None]:
    """Within, layers are called whose forward pass is computed again, in part or whole, for their backward pass."""
    return within(_recomputed, value)


_eight_bits: contextvars.ContextVar[bool] = contextvars.ContextVar("eight_bits", default=False)


def in_eight_bits(value: bool) -> AbstractContextManager[None]:
    """Within, products with weights that are trained read 8-bit floats."""
    return within(_eight_bits, value)


def _linear(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None,
    num_inputs: int,
    names: tuple[str, ...] = (),
    recomputed: bool = False,
) -> jax.Array:
    """Returns x W + b, [..., *outputs], computed in the dtype of `x`; its parameters' gradients are summed in float32.

    Parameters are float32 and are cast for the product. From that, automatic differentiation would make sums in the
    product's dtype: of a bias's gradient over batch and length, where a bfloat16 sum stands still once it is 256 times
    as large as what is added; and of a kernel's gradient over devices, each of which would round its part first.

    Args:
      x: [..., *inputs], float32 or 16 bits.
      kernel: float32 [*inputs, *outputs]. Its gradient is float32 from the product on, also between devices.
      bias: float32 [*outputs], or None. Its gradient's sums are in float32.
      num_inputs: dimensions that are summed over: the last of `x`, the first of `kernel`.
      names: logical axis names of the kernel; () leaves its layout in the product to the compiler.
      recomputed: whether this is computed again for the backward pass. The gradient then takes the kernel that was
        gathered for that, and gathers none itself; otherwise it gathers again, rather than keep whole kernels.
    """
    del recomputed
    return _product(x, _gathered(kernel, x.dtype, names), bias, num_inputs)


def _product(x: jax.Array, kernel: jax.Array, bias: jax.Array | None, num_inputs: int) -> jax.Array:
    inputs = tuple(range(x.ndim - num_inputs, x.ndim)), tuple(range(num_inputs))
    return _biased(jax.lax.dot_general(x, kernel, (inputs, ((), ()))), bias)


def _biased(y: jax.Array, bias: jax.Array | None) -> jax.Array:
    return y if bias is None else y + jnp.expand_dims(bias.astype(y.dtype), tuple(range(y.ndim - bias.ndim)))


def _gathered(kernel: jax.Array, dtype: Any, names: tuple[str, ...]) -> jax.Array:
    """Returns the kernel in the product's dtype, whole along the model width, as a product with tokens needs it."""
    kernel = kernel.astype(dtype)
    return constrain(kernel, *(None if name == "embed" else name for name in names)) if names else kernel


def _forward(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None,
    num_inputs: int,
    names: tuple[str, ...],
    recomputed: bool,
):
    # Not by way of `linear`: a policy of rematerialisation is to see the product.
    gathered = _gathered(kernel, x.dtype, names)
    return _product(x, gathered, bias, num_inputs), (x, gathered if recomputed else kernel, bias)


def _backward(
    num_inputs: int,
    names: tuple[str, ...],
    recomputed: bool,
    residuals: tuple[jax.Array, jax.Array, jax.Array | None],
    dy: jax.Array,
):
    x, kernel, bias = residuals
    rows = tuple(range(x.ndim - num_inputs))
    outputs = tuple(range(len(rows), dy.ndim)), tuple(range(num_inputs, kernel.ndim))
    gathered = kernel if recomputed else _gathered(kernel, dy.dtype, names)
    dx = jax.lax.dot_general(dy, gathered, (outputs, ((), ())))
    return dx, summed_outer(x, dy, len(rows)), dy.astype(jnp.float32).sum(rows) if bias is not None else None


linear = functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))(_linear)
linear.defvjp(_forward, _backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def eight_bit_linear(
    x: jax.Array, kernel: jax.Array, bias: jax.Array | None, num_inputs: int, names: tuple[str, ...], recomputed: bool
) -> jax.Array:
    """Returns x W + b as `linear` does, of `x` and `kernel` in 8 bits, and so the products of its gradients, for which
    `x` is kept in 8 bits. Parameters, their gradients and all sums are as wide as `linear`'s.
    """
    return _eight_bit_forward(x, kernel, bias, num_inputs, names, recomputed)[0]


def _gathered_in_eight_bits(kernel: jax.Array, names: tuple[str, ...]) -> EightBits:
    """Returns the kernel in 8 bits, whole along the model width: between devices a byte goes for each number."""
    narrow = eight_bits(kernel, FORWARD)
    return narrow.replace(values=_gathered(narrow.values, FORWARD, names))


def _eight_bit_forward(x, kernel, bias, num_inputs, names, recomputed):
    narrow, gathered = eight_bits(x, FORWARD), _gathered_in_eight_bits(kernel, names)
    y = _product(narrow.widened(x.dtype), gathered.widened(x.dtype), bias, num_inputs)
    return y, (narrow, gathered if recomputed else kernel, bias)


def _eight_bit_backward(num_inputs, names, recomputed, residuals, dy):
    narrow, kernel, bias = residuals
    gathered = kernel if recomputed else _gathered_in_eight_bits(kernel, names)
    of_dy, x = eight_bits(dy, BACKWARD).widened(dy.dtype), narrow.widened(dy.dtype)
    dx, dkernel, _ = _backward(num_inputs, (), True, (x, gathered.widened(dy.dtype), None), of_dy)
    rows = tuple(range(x.ndim - num_inputs))
    return dx, dkernel, dy.astype(jnp.float32).sum(rows) if bias is not None else None


eight_bit_linear.defvjp(_eight_bit_forward, _eight_bit_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def frozen_linear(
    x: jax.Array, kernel: jax.Array, num_inputs: int, names: tuple[str, ...], recomputed: bool
) -> jax.Array:
    """Returns x W as `linear` does, for a kernel that has no gradient, in whatever dtype it is held.

    The backward pass keeps the kernel as it is held: what a loop over layers keeps of each is then no copy in another.
    """
    del recomputed
    return _product(x, _gathered(kernel, x.dtype, names), None, num_inputs)


def _frozen_forward(x: jax.Array, kernel: jax.Array, num_inputs: int, names: tuple[str, ...], recomputed: bool):
    gathered = _gathered(kernel, x.dtype, names)
    return _product(x, gathered, None, num_inputs), gathered if recomputed else kernel


def _frozen_backward(num_inputs: int, names: tuple[str, ...], recomputed: bool, kernel: jax.Array, dy: jax.Array):
    gathered = kernel if recomputed else _gathered(kernel, dy.dtype, names)
    outputs = tuple(range(dy.ndim - (kernel.ndim - num_inputs), dy.ndim)), tuple(range(num_inputs, kernel.ndim))
    return jax.lax.dot_general(dy, gathered, (outputs, ((), ()))), None


frozen_linear.defvjp(_frozen_forward, _frozen_backward)
