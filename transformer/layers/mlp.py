"""The position-wise feed-forward layers."""

from typing import Any

import flax.linen as nn
import jax

from transformer.layers.primitives import Dropout, Initializer, Linear
from transformer.ops.elementwise import ACTIVATIONS
from transformer.parallel.rules import constrain

_NAMES = ("activation_batch", "activation_length", "activation_mlp")


class MLP(nn.Module):
    """down(f(up(x))): Vaswani et al. 2017, section 3.3."""

    width: int
    activation: str
    dtype: Any
    use_bias: bool = True
    kernel_init: Initializer = nn.initializers.normal(0.02)
    out_init: Initializer = nn.initializers.normal(0.02)
    dropout: float = 0.0
    """Probability of dropping hidden values."""

    @nn.compact
    def __call__(self, x_BTD: jax.Array, *, deterministic: bool = True) -> jax.Array:
        """Returns [B, T, D]."""
        hidden_BTF = Dropout(self.dropout)(self.hidden(x_BTD), deterministic=deterministic)
        width = (x_BTD.shape[-1],)
        return Linear(width, ("mlp", "embed"), self.dtype, self.use_bias, self.out_init, name="down")(hidden_BTF)

    @nn.nowrap
    def hidden(self, x_BTD: jax.Array) -> jax.Array:
        """Returns the hidden values, [B, T, F]."""
        return ACTIVATIONS[self.activation](self.widened("up", x_BTD))

    @nn.nowrap
    def widened(self, name: str, x_BTD: jax.Array) -> jax.Array:
        """Returns the product with the matrix `name`, [B, T, F]."""
        linear = Linear((self.width,), ("embed", "mlp"), self.dtype, self.use_bias, self.kernel_init, name=name)
        return constrain(linear(x_BTD), *_NAMES)


class GatedMLP(MLP):
    """down(f(gate(x)) * up(x)): Shazeer 2020, "GLU variants improve Transformer", equation 6 (SwiGLU, GEGLU)."""

    use_bias: bool = False

    @nn.nowrap
    def hidden(self, x_BTD: jax.Array) -> jax.Array:
        """Returns the hidden values, [B, T, F]."""
        return ACTIVATIONS[self.activation](self.widened("gate", x_BTD)) * self.widened("up", x_BTD)
