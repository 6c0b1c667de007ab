"""Pooling by attention: one learned query reads a sequence, and a feed-forward layer what it reads.

Zhai et al. 2022, "Scaling Vision Transformers", section 3.2 (MAP, after Lee et al. 2019); SigLIP's pooled vector too.

Shape letters: B batch, T length, D model width.
"""

import flax.linen as nn
import jax

from transformer.layers.attention import Attention
from transformer.layers.execution import Execution
from transformer.layers.mlp import MLP
from transformer.layers.norm_first import NormFirstSizes
from transformer.layers.patches import LearnedTokens
from transformer.layers.primitives import LayerNorm
from transformer.ops.attention import Mask


class AttentionPool(nn.Module):
    """y = attention of a learned query over x; y + mlp(norm(y))."""

    sizes: NormFirstSizes
    execution: Execution

    @nn.compact
    def __call__(self, x_BTD: jax.Array, *, deterministic: bool) -> jax.Array:
        """Returns [B, D]."""
        sizes, dtype = self.sizes, self.execution.compute_dtype
        probe_B1D = LearnedTokens(1, sizes.width, dtype, sizes.init, name="probe")(x_BTD.shape[0])
        head_width = sizes.width // sizes.num_heads
        attention = Attention(
            sizes.width, sizes.num_heads, head_width, self.execution, kernel_init=sizes.init, name="attention"
        )
        read_B1D = attention.attend(probe_B1D, attention.keys_values(x_BTD), Mask(), deterministic=deterministic)
        mlp = MLP(sizes.mlp_width, sizes.activation, dtype, kernel_init=sizes.init, out_init=sizes.init, name="mlp")
        normed_B1D = LayerNorm(sizes.norm_epsilon, dtype, name="norm")(read_B1D)
        return (read_B1D + mlp(normed_B1D, deterministic=deterministic))[:, 0]
