"""GPT-2 and GPT-3: a decoder of pre-norm blocks with learned positions.

Radford et al. 2019, "Language models are unsupervised multitask learners"; Brown et al. 2020, section 2.1.

Shape letters: B batch, T length, D model width, V vocabulary, N layers.
"""

import dataclasses
import functools
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.layers.activations import check_activation
from transformer.layers.attention import Attention, KeysValues
from transformer.layers.cache import KVCache, LayerCache
from transformer.layers.dropout import Dropout
from transformer.layers.embeddings import Embedding
from transformer.layers.execution import Execution
from transformer.layers.heads import LanguageModelHead, LanguageModelOutput
from transformer.layers.mlp import MLP
from transformer.layers.norms import LayerNorm
from transformer.layers.stack import Stack
from transformer.models.architecture import Architecture
from transformer.ops.masks import Mask
from transformer.sharding import constrain

_RESIDUAL = ("activation_batch", "activation_length", "activation_embed")


@dataclasses.dataclass(frozen=True)
class GPTConfig(Architecture):
    """A GPT-2 or GPT-3 model; the defaults are GPT-2 small's (124,439,808 parameters)."""

    family: ClassVar[str] = "gpt"

    vocab_size: int = 50257
    """Words."""
    context_length: int = 1024
    """Learned positions: the most tokens that the model can look at."""
    width: int = 768
    """Model width: of the residual stream."""
    num_layers: int = 12
    """Blocks."""
    num_heads: int = 12
    """Attention heads; they divide the width."""
    mlp_width: int | None = None
    """Width of the feed-forward layers; None: four times the model width."""
    dropout: float = 0.1
    """Probability of dropping embeddings, attention probabilities and sublayer outputs (GPT-2: 0.1; GPT-3: 0)."""
    norm_epsilon: float = 1e-5
    """Added to the variance in LayerNorm."""
    activation: str = "gelu_tanh"
    """Of the feed-forward layers: gelu_tanh (GPT-2), gelu, relu or silu."""
    tie_embeddings: bool = True
    """Whether the head multiplies with the embedding, or with a matrix of its own."""

    def __post_init__(self):
        self.require_positive("vocab_size", "context_length", "width", "num_layers", "num_heads")
        self.require(self.width % self.num_heads == 0, f"num_heads {self.num_heads} does not divide width {self.width}")
        self.require(self.mlp_width is None or self.mlp_width >= 1, f"mlp_width is {self.mlp_width}: at least 1")
        self.require(0.0 <= self.dropout < 1.0, f"dropout is {self.dropout}: it must be in [0, 1)")
        self.require(self.norm_epsilon > 0, f"norm_epsilon is {self.norm_epsilon}: it must be above 0")
        check_activation(self.activation)

    @property
    def head_width(self) -> int:
        """Width of a head."""
        return self.width // self.num_heads

    @property
    def feed_forward_width(self) -> int:
        """`mlp_width`, its default worked out."""
        return 4 * self.width if self.mlp_width is None else self.mlp_width

    def build(self, execution: Execution) -> "GPT":
        """Returns the module: the model without its weights."""
        return GPT(self, execution)

    def flops_per_token(self, seq_len: int) -> float:
        """Returns the FLOPs of training on one token: 6 M + 12 N D T (Chowdhery et al. 2022, PaLM, appendix B).

        M are the weights in matrix products: the blocks' and the unembedding's, tied or not. The second term is
        attention's two products over all T keys, as if nothing were masked. A multiply-add is two FLOPs, and backward
        takes twice forward. Not counted: biases, norms, softmax, activations, the embedding look-up, the loss, the
        optimizer, and what rematerialisation computes again.
        """
        block = 4 * self.width**2 + 2 * self.width * self.feed_forward_width
        weights = self.num_layers * block + self.vocab_size * self.width
        return 6.0 * weights + 12.0 * self.num_layers * self.width * seq_len


class GPTBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): GPT-2's pre-norm block."""

    config: GPTConfig
    execution: Execution

    @nn.compact
    def __call__(
        self, x_BTD: jax.Array, cache: LayerCache | None, mask: Mask, *, deterministic: bool
    ) -> tuple[jax.Array, KeysValues | None]:
        """Returns [B, T, D] and, with a cache, this layer's new keys and values."""
        config, dtype = self.config, self.execution.compute_dtype
        # GPT-2, section 2.3: what adds to the residual stream starts smaller, by the square root of how much adds up.
        out_init = nn.initializers.normal(0.02 * (2 * config.num_layers) ** -0.5)
        attention = Attention(
            config.width,
            config.num_heads,
            config.head_width,
            self.execution,
            dropout=config.dropout,
            out_init=out_init,
            name="attention",
        )
        mlp = MLP(config.feed_forward_width, config.activation, dtype, out_init=out_init, name="mlp")
        drop = functools.partial(Dropout(config.dropout), deterministic=deterministic)

        normed_BTD = LayerNorm(config.norm_epsilon, dtype, name="attention_norm")(x_BTD)
        attended_BTD, new = attention(normed_BTD, mask, cache=cache, deterministic=deterministic)
        x_BTD = constrain(x_BTD + drop(attended_BTD), *_RESIDUAL)
        normed_BTD = LayerNorm(config.norm_epsilon, dtype, name="mlp_norm")(x_BTD)
        return constrain(x_BTD + drop(mlp(normed_BTD)), *_RESIDUAL), new


class GPTBackbone(nn.Module):
    """Embeddings, blocks and a last norm: tokens in, hidden states out."""

    config: GPTConfig
    execution: Execution

    def setup(self):
        config, dtype = self.config, self.execution.compute_dtype
        self.token_embedding = Embedding(config.vocab_size, config.width, ("vocab", "embed"), dtype)
        # GPT-2's released code starts positions at half the scale of words.
        self.position_embedding = Embedding(
            config.context_length, config.width, ("positions", "embed"), dtype, nn.initializers.normal(0.01)
        )
        self.dropout = Dropout(config.dropout)
        self.stack = Stack(functools.partial(GPTBlock, config, self.execution), config.num_layers, self.execution)
        self.final_norm = LayerNorm(config.norm_epsilon, dtype)

    def __call__(
        self,
        tokens_BT: jax.Array,
        positions_BT: jax.Array,
        segment_ids_BT: jax.Array | None,
        *,
        cache: KVCache | None,
        deterministic: bool,
    ) -> tuple[jax.Array, KVCache | None]:
        """Returns [B, T, D] and, where one was given, the cache with the new tokens."""
        if cache is None:
            mask, layer_caches = Mask.self_attention(segment_ids_BT, causal=True), None
        else:
            segment_ids_BT = jnp.ones_like(tokens_BT) if segment_ids_BT is None else segment_ids_BT
            cache = cache.admit(positions_BT, segment_ids_BT)
            mask, layer_caches = cache.mask(positions_BT, segment_ids_BT), cache.layers()
        x_BTD = self.token_embedding(tokens_BT) + self.position_embedding(positions_BT)
        x_BTD = constrain(self.dropout(x_BTD, deterministic=deterministic), *_RESIDUAL)
        x_BTD, new = self.stack(x_BTD, layer_caches, mask, deterministic=deterministic)
        return self.final_norm(x_BTD), None if cache is None else cache.write(*new)


class GPT(nn.Module):
    """A GPT backbone with a language model's head."""

    config: GPTConfig
    execution: Execution

    def setup(self):
        self.backbone = GPTBackbone(self.config, self.execution)
        self.head = LanguageModelHead(self.config.vocab_size, self.config.tie_embeddings)

    def __call__(
        self,
        tokens: jax.Array,
        positions: jax.Array | None = None,
        segment_ids: jax.Array | None = None,
        *,
        cache: KVCache | None = None,
        deterministic: bool = True,
    ) -> LanguageModelOutput:
        """Returns the scores of each next token.

        Args:
          tokens: int32 [B, T].
          positions: int32 [B, T], rising within each segment; None: 0, 1, ... T - 1.
          segment_ids: int32 [B, T]. Tokens attend within their segment; 0 is padding. None: one segment, no padding,
            which is the fastest on GPUs, as attention then needs no mask but causality.
          cache: of earlier tokens, from `init_cache` or an earlier call.
          deterministic: no dropout; otherwise the random stream "dropout" is needed.
        """
        length = tokens.shape[1]
        if length > self.config.context_length:
            raise ValueError(f"{length} tokens for a context of {self.config.context_length}")
        if positions is None:
            if cache is not None:
                raise ValueError("a cache needs positions")
            positions = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32)[None], tokens.shape)
        hidden_BTD, cache = self.backbone(tokens, positions, segment_ids, cache=cache, deterministic=deterministic)
        return self.head(hidden_BTD, self.backbone.token_embedding.embedding, cache)

    @nn.nowrap
    def init_cache(self, batch: int, length: int) -> KVCache:
        """Returns an empty cache of `length` slots for `batch` rows, in the compute dtype."""
        config = self.config
        return KVCache.empty(
            config.num_layers, batch, length, config.num_heads, config.head_width, self.execution.compute_dtype
        )
