"""The one matrix product with weights that all layers use."""

from typing import Any

import flax.linen as nn
import jax

from transformer.layers.parameter import Initializer, parameter
from transformer.ops.linear import linear


class Linear(nn.Module):
    """y = x W + b, over one or more input and output dimensions.

    The kernel is [*inputs, *outputs] and the bias [*outputs], both float32: a projection to heads is [D, H, K], so that
    a mesh can split heads without knowing how they are packed.
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
        kernel = parameter(self, "kernel", self.kernel_init, self.names, shape)
        bias = None
        if self.use_bias:
            bias = parameter(self, "bias", nn.initializers.zeros_init(), self.names[num_inputs:], self.outputs)
        return linear(x.astype(self.dtype), kernel, bias, num_inputs)
