"""The position-wise feed-forward layers."""

from typing import Any

import flax.linen as nn
import jax

from transformer.layers.primitives import Dropout, Initializer, Linear
from transformer.ops.elementwise import ACTIVATIONS
from transformer.sharding import constrain

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
        up = Linear((self.width,), ("embed", "mlp"), self.dtype, self.use_bias, self.kernel_init, name="up")
        hidden_BTF = ACTIVATIONS[self.activation](constrain(up(x_BTD), *_NAMES))
        hidden_BTF = Dropout(self.dropout)(hidden_BTF, deterministic=deterministic)
        width = (x_BTD.shape[-1],)
        return Linear(width, ("mlp", "embed"), self.dtype, self.use_bias, self.out_init, name="down")(hidden_BTF)


class GatedMLP(nn.Module):
    """down(f(gate(x)) * up(x)): Shazeer 2020, "GLU variants improve Transformer", equation 6 (SwiGLU, GEGLU)."""

    width: int
    activation: str
    dtype: Any
    use_bias: bool = False
    kernel_init: Initializer = nn.initializers.normal(0.02)
    out_init: Initializer = nn.initializers.normal(0.02)
    dropout: float = 0.0
    """Probability of dropping hidden values."""

    @nn.compact
    def __call__(self, x_BTD: jax.Array, *, deterministic: bool = True) -> jax.Array:
        """Returns [B, T, D]."""
        gate = Linear((self.width,), ("embed", "mlp"), self.dtype, self.use_bias, self.kernel_init, name="gate")
        up = Linear((self.width,), ("embed", "mlp"), self.dtype, self.use_bias, self.kernel_init, name="up")
        hidden_BTF = ACTIVATIONS[self.activation](constrain(gate(x_BTD), *_NAMES)) * constrain(up(x_BTD), *_NAMES)
        hidden_BTF = Dropout(self.dropout)(hidden_BTF, deterministic=deterministic)
        width = (x_BTD.shape[-1],)
        return Linear(width, ("mlp", "embed"), self.dtype, self.use_bias, self.out_init, name="down")(hidden_BTF)
