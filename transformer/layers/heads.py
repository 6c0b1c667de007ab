"""Heads: what a backbone's hidden states are for. A head keeps its parameters apart, so that it can be replaced.

A model is a `backbone`, a `head` and, where the head reads one vector a sequence through BERT's layer for it, a
`pooler`.

Shape letters: B batch, T length, D model width, E embedding width, V vocabulary, C classes.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from transformer.layers.cache import EncoderDecoderCache, KVCache
from transformer.layers.primitives import Dropout, Initializer, LayerNorm, Linear, parameter
from transformer.layers.routing import Routers
from transformer.ops.elementwise import ACTIVATIONS, scaled
from transformer.parallel.rules import RESIDUAL, constrain


class BackboneOutput(struct.PyTreeNode):
    """A model without a head."""

    hidden_BTD: jax.Array
    pooled_BD: jax.Array | None = None
    cache: KVCache | EncoderDecoderCache | None = None
    routers: Routers = struct.field(default_factory=dict)
    """Sums of the experts' routers, of all layers; empty without experts."""


class LanguageModelOutput(struct.PyTreeNode):
    """Scores of words, not yet multiplied out: a loss may take them in chunks, a decoder at its last token."""

    hidden_BTD: jax.Array
    """In the compute dtype."""
    unembedding_VD: jax.Array
    """float32: a row a word."""
    bias_V: jax.Array | None = None
    """float32."""
    cache: KVCache | EncoderDecoderCache | None = None
    """With the new tokens, where the model was given one."""
    routers: Routers = struct.field(default_factory=dict)
    """Sums of the experts' routers, of all layers; empty without experts."""

    @property
    def logits(self) -> jax.Array:
        """float32 [B, T, V]: products in the compute dtype, summed in float32."""
        kernel_VD = self.unembedding_VD.astype(self.hidden_BTD.dtype)
        logits_BTV = jnp.einsum("BTD,VD->BTV", self.hidden_BTD, kernel_VD, preferred_element_type=jnp.float32)
        if self.bias_V is not None:
            logits_BTV += self.bias_V[None, None]
        return constrain(logits_BTV, "activation_batch", "activation_length", "activation_vocab")


class PretrainingOutput(LanguageModelOutput):
    """Scores of the masked words, and of what else an encoder is pretrained to tell."""

    sentence_B2: jax.Array | None = None
    """float32: scores of "follows" and "does not" (next sentence), or of "in order" and "swapped" (sentence order)."""
    boundary: LanguageModelOutput | None = None
    """The masked words told from the tokens around their span (SpanBERT)."""


class ClassificationOutput(struct.PyTreeNode):
    """Scores of classes."""

    logits: jax.Array
    """float32: [B, C] of a sequence, [B, T, C] of each token; [B, T, 2] of an answer's start and end."""
    routers: Routers = struct.field(default_factory=dict)
    """Sums of the experts' routers, of all layers; empty without experts."""


class LanguageModelHead(nn.Module):
    """The unembedding: its own, or tied to the embedding (Press and Wolf 2017)."""

    vocab_size: int
    tied: bool
    use_bias: bool = False
    kernel_init: Initializer = nn.initializers.normal(0.02)
    scale: float = 1.0
    """What the hidden states are multiplied with before the product (T5)."""

    @nn.compact
    def __call__(
        self,
        hidden_BTD: jax.Array,
        embedding_VD: jax.Array,
        cache: KVCache | EncoderDecoderCache | None = None,
    ) -> LanguageModelOutput:
        """Returns the outputs; `embedding_VD` is what a tied head multiplies with."""
        if self.scale != 1.0:
            hidden_BTD = scaled(hidden_BTD, self.scale)
        kernel_VD = embedding_VD
        if not self.tied:
            shape = (self.vocab_size, hidden_BTD.shape[-1])
            kernel_VD = parameter(self, "kernel", self.kernel_init, ("vocab", "embed"), shape)
        bias_V = None
        if self.use_bias:
            bias_V = parameter(self, "bias", nn.initializers.zeros_init(), ("vocab",), (self.vocab_size,))
        return LanguageModelOutput(hidden_BTD, kernel_VD, bias_V, cache)


class MaskedLMHead(nn.Module):
    """norm(f(W x)), then an unembedding with a bias: BERT's masked language model (`get_masked_lm_output`)."""

    vocab_size: int
    width: int
    """E, the embedding's."""
    activation: str
    norm_epsilon: float
    dtype: Any
    tied: bool = True
    kernel_init: Initializer = nn.initializers.normal(0.02)

    @nn.compact
    def __call__(
        self, hidden_BTD: jax.Array, embedding_VE: jax.Array, masked_positions_BP: jax.Array | None = None
    ) -> LanguageModelOutput:
        """Returns the scores of every token or, where given, of those at the `masked_positions_BP` alone."""
        if masked_positions_BP is not None:
            hidden_BTD = jnp.take_along_axis(hidden_BTD, masked_positions_BP[:, :, None], axis=1)
            # Split as the sequence was, however many they are: or every device computes the scores of all.
            hidden_BTD = constrain(hidden_BTD, *RESIDUAL, padded=True)
        transform = Linear((self.width,), ("embed", "out"), self.dtype, kernel_init=self.kernel_init, name="transform")
        hidden_BTE = ACTIVATIONS[self.activation](transform(hidden_BTD))
        hidden_BTE = LayerNorm(self.norm_epsilon, self.dtype, name="norm")(hidden_BTE)
        unembedding = LanguageModelHead(self.vocab_size, self.tied, True, self.kernel_init, name="unembedding")
        return unembedding(hidden_BTE, embedding_VE)


class Pooler(nn.Module):
    """f(W x) of the first token: with tanh, BERT's vector for a sequence."""

    dtype: Any
    activation: str = "tanh"
    kernel_init: Initializer = nn.initializers.normal(0.02)

    @nn.compact
    def __call__(self, hidden_BTD: jax.Array) -> jax.Array:
        """Returns [B, D]."""
        width = hidden_BTD.shape[-1:]
        dense = Linear(width, ("embed", "out"), self.dtype, kernel_init=self.kernel_init, name="dense")
        return ACTIVATIONS[self.activation](dense(hidden_BTD[:, 0]))


class ClassificationHead(nn.Module):
    """Scores of classes from vectors, of sequences or of tokens; with an `activation`, through a layer of its own."""

    num_labels: int
    dtype: Any
    activation: str | None = None
    """Activation of a layer [D, D] before the last one; None: no such layer."""
    dropout: float = 0.0
    use_bias: bool = True
    kernel_init: Initializer = nn.initializers.normal(0.02)

    @nn.compact
    def __call__(self, x: jax.Array, *, deterministic: bool) -> jax.Array:
        """Returns float32 [..., C] for `x` [..., D]."""
        drop = Dropout(self.dropout)
        if self.activation is not None:
            dense = Linear(x.shape[-1:], ("embed", "out"), self.dtype, kernel_init=self.kernel_init, name="dense")
            x = ACTIVATIONS[self.activation](dense(drop(x, deterministic=deterministic)))
        # In float32, as it is small: scores of classes, and their gradients, are differences of numbers that are close.
        out = Linear((self.num_labels,), ("embed", "label"), jnp.float32, self.use_bias, self.kernel_init, name="out")
        return out(drop(x, deterministic=deterministic))
