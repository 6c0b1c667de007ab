"""Heads: what a backbone's hidden states are for. A head keeps its parameters apart, so that it can be replaced."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from transformer.layers.cache import KVCache
from transformer.layers.parameter import Initializer, parameter
from transformer.sharding import constrain


class LanguageModelOutput(struct.PyTreeNode):
    """Scores of the next word, not yet multiplied out: a loss may take them in chunks, a decoder at its last token."""

    hidden_BTD: jax.Array
    """In the compute dtype."""
    unembedding_VD: jax.Array
    """float32: a row a word."""
    bias_V: jax.Array | None = None
    """float32."""
    cache: KVCache | None = None
    """With the new tokens, where the model was given one."""

    @property
    def logits(self) -> jax.Array:
        """float32 [B, T, V]: products in the compute dtype, summed in float32."""
        kernel_VD = self.unembedding_VD.astype(self.hidden_BTD.dtype)
        logits_BTV = jnp.einsum("BTD,VD->BTV", self.hidden_BTD, kernel_VD, preferred_element_type=jnp.float32)
        if self.bias_V is not None:
            logits_BTV += self.bias_V[None, None]
        return constrain(logits_BTV, "activation_batch", "activation_length", "activation_vocab")


class LanguageModelHead(nn.Module):
    """The unembedding: its own, or tied to the embedding (Press and Wolf 2017)."""

    vocab_size: int
    tied: bool
    use_bias: bool = False
    kernel_init: Initializer = nn.initializers.normal(0.02)

    @nn.compact
    def __call__(
        self, hidden_BTD: jax.Array, embedding_VD: jax.Array, cache: KVCache | None = None
    ) -> LanguageModelOutput:
        """Returns the outputs; `embedding_VD` is what a tied head multiplies with."""
        kernel_VD = embedding_VD
        if not self.tied:
            shape = (self.vocab_size, hidden_BTD.shape[-1])
            kernel_VD = parameter(self, "kernel", self.kernel_init, ("vocab", "embed"), shape)
        bias_V = None
        if self.use_bias:
            bias_V = parameter(self, "bias", nn.initializers.zeros_init(), ("vocab",), (self.vocab_size,))
        return LanguageModelOutput(hidden_BTD, kernel_VD, bias_V, cache)
