"""A decoder-only model: a family's backbone under any head.

Shape letters: B batch, T length, C classes.
"""

import abc
import dataclasses
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer import checks
from transformer.layers.cache import KVCache, LayerCache
from transformer.layers.execution import Execution, show
from transformer.layers.heads import (
    BackboneOutput,
    ClassificationHead,
    ClassificationOutput,
    LanguageModelHead,
    LanguageModelOutput,
)
from transformer.models.architecture import Architecture
from transformer.ops.attention import Mask
from transformer.ops.elementwise import ACTIVATIONS

DecoderHead = Literal["language_model", "sequence_classification", "token_classification", "question_answering", "none"]


@dataclasses.dataclass(frozen=True)
class DecoderConfig(Architecture):
    """What every decoder's config has; the defaults are GPT-2 small's."""

    kind: ClassVar[Literal["decoder"]] = "decoder"
    last_norm: ClassVar[str] = "backbone/final_norm"
    """Path of the norm whose output the head reads; of a stack's norms it is the last one."""

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
    norm_epsilon: float = 1e-5
    """Added to the variance in LayerNorm."""
    activation: str = "gelu_tanh"
    """Activation of the feed-forward layers: gelu_tanh, gelu, relu or silu."""
    tie_embeddings: bool = True
    """Whether the head multiplies with the embedding, or with a matrix of its own."""
    head: DecoderHead = "language_model"
    """What the hidden states are for."""
    num_labels: int = 2
    """Classes of a classification head."""

    def __post_init__(self):
        checks.at_least(self, 1, "vocab_size", "context_length", "width", "num_layers", "num_heads")
        self.check_labels()
        checks.above(self, 0, "norm_epsilon")
        checks.choice(self, "activation", ACTIVATIONS)

    @abc.abstractmethod
    def backbone(self, execution: Execution) -> nn.Module:
        """Returns the model below its head.

        It has a `token_embedding`, is called as backbone(tokens_BT, positions_BT, cache, *masks, deterministic=...),
        with all layers' parts of a cache, if any, and a mask for each of `attention_windows`, and returns [B, T, D]
        and all layers' `LayerOutput`.
        """

    def build(self, execution: Execution) -> "Decoder":
        """Returns the module: the model without its weights."""
        return Decoder(self, execution)

    @property
    def longest_input(self) -> int | None:
        """The most tokens that it can look at."""
        return self.context_length

    @property
    def stacks(self) -> dict[str, int]:
        """Module that holds the stack of layers -> how many."""
        return {"stack": self.num_layers}

    @property
    def tied_norms(self) -> tuple[str, ...]:
        """Paths of the norms whose output meets the embedding as unembedding."""
        return (self.last_norm,) if self.tie_embeddings and self.head == "language_model" else ()

    @property
    def cache_heads(self) -> tuple[int, int]:
        """Key-value heads, and the width of each."""
        return self.num_heads, self.width // self.num_heads

    @property
    def cache_value_width(self) -> int | None:
        """Width of what a cache holds as a head's values; None: the keys'."""
        return None


class Decoder(nn.Module):
    """Tokens in; next words, classes, or hidden states out."""

    config: DecoderConfig
    execution: Execution

    def setup(self):
        config, dtype = self.config, self.execution.compute_dtype
        self.backbone: Any = config.backbone(self.execution)
        if config.head == "language_model":
            self.head: Any = LanguageModelHead(config.vocab_size, config.tie_embeddings)
        elif config.head != "none":
            labels = 2 if config.head == "question_answering" else config.num_labels
            self.head = ClassificationHead(labels, dtype, use_bias=config.head != "sequence_classification")

    def __call__(
        self,
        tokens: jax.Array,
        positions: jax.Array | None = None,
        segment_ids: jax.Array | None = None,
        prefix: jax.Array | None = None,
        *,
        order: jax.Array | None = None,
        cache: KVCache | None = None,
        deterministic: bool = True,
    ) -> LanguageModelOutput | ClassificationOutput | BackboneOutput:
        """Returns the scores of each next token; or of classes, of the row's last token or of all; or hidden states.

        Args:
          tokens: int32 [B, T].
          positions: int32 [B, T], rising within each segment; None: 0, 1, ... T - 1.
          segment_ids: int32 [B, T]. Tokens attend within their segment; 0 is padding. None: one segment, no padding,
            which is the fastest on GPUs, as attention then needs no mask but causality.
          prefix: int32 [B, T], 1 where a token belongs to the prefix that its segment begins with: its tokens see each
            other, before and after. None: no prefix, purely causal. With a cache, a prefix comes whole in one call.
          order: int32 [1, T], each token's place in its row, where the tokens of all rows stand in another order than
            that of the text (`parallel.context.balanced`); None: they do not. Not with a cache.
          cache: of earlier tokens, from `init_cache` or an earlier call.
          deterministic: no dropout; otherwise the random stream "dropout" is needed.
        """
        length, context = tokens.shape[1], self.config.context_length
        if length > context:
            raise ValueError(f"{length} tokens for a context of {context}")
        if positions is None:
            if cache is not None:
                raise ValueError("a cache needs positions")
            places = jnp.arange(length, dtype=jnp.int32)[None] if order is None else order
            positions = jnp.broadcast_to(places, tokens.shape)
        masks, layers, cache = causal_masks(cache, positions, segment_ids, prefix, *self.config.attention_windows)
        if order is not None:
            masks = [mask.ordered(order) for mask in masks]
        hidden_BTD, of_layers = self.backbone(tokens, positions, layers, *masks, deterministic=deterministic)
        show(self, "states", "last", hidden_BTD)
        cache = None if cache is None else cache.write(*of_layers.cache)
        if self.config.head == "none":
            return BackboneOutput(hidden_BTD, cache=cache, routers=of_layers.routers)
        if self.config.head == "language_model":
            words = self.head(hidden_BTD, self.backbone.token_embedding.embedding, cache)
            return words.replace(routers=of_layers.routers)
        if self.config.head == "sequence_classification":
            hidden_BTD = last_token(hidden_BTD, segment_ids, order)
        return ClassificationOutput(self.head(hidden_BTD, deterministic=deterministic), of_layers.routers)

    @nn.nowrap
    def init_cache(self, batch: int, length: int) -> KVCache:
        """Returns an empty cache of `length` slots for `batch` rows, in the compute dtype."""
        dtype = self.execution.compute_dtype
        return KVCache.empty(
            self.config.num_layers, batch, length, *self.config.cache_heads, dtype,
            value_width=self.config.cache_value_width,
        )  # fmt: skip


def causal_masks(
    cache: KVCache | None,
    positions_BT: jax.Array,
    segment_ids_BT: jax.Array | None,
    prefix_BT: jax.Array | None,
    *windows: int | None,
) -> tuple[list[Mask], LayerCache | None, KVCache | None]:
    """Returns a causal mask a window, all layers' parts of the cache, and the cache with the new tokens admitted.

    Args:
      cache: of earlier tokens, if any.
      positions_BT: int32.
      segment_ids_BT: int32, or None.
      prefix_BT: int32, or None: 1 where a token belongs to its segment's prefix.
      *windows: how many tokens back a query sees, itself included; None: all.
    """
    if cache is None:
        masks = [
            Mask.self_attention(segment_ids_BT, causal=True, window=window, prefix_BT=prefix_BT) for window in windows
        ]
        return masks, None, None
    segment_ids_BT = jnp.ones_like(positions_BT) if segment_ids_BT is None else segment_ids_BT
    cache = cache.admit(positions_BT, segment_ids_BT)
    masks = [cache.mask(positions_BT, segment_ids_BT, window=window, prefix_BT=prefix_BT) for window in windows]
    return masks, cache.layers(), cache


def last_token(hidden_BTD: jax.Array, segment_ids_BT: jax.Array | None, order_1T: jax.Array | None = None) -> jax.Array:
    """Returns [B, D]: the hidden states of each row's last token, by `order_1T` or the index, that is no padding."""
    if segment_ids_BT is None and order_1T is None:
        return hidden_BTD[:, -1]
    order_1T = jnp.arange(hidden_BTD.shape[1], dtype=jnp.int32)[None] if order_1T is None else order_1T
    order_BT = jnp.broadcast_to(order_1T, hidden_BTD.shape[:2])
    order_BT = order_BT if segment_ids_BT is None else jnp.where(segment_ids_BT > 0, order_BT, -1)
    last_B = jnp.argmax(order_BT, axis=1)
    return jnp.take_along_axis(hidden_BTD, last_B[:, None, None], axis=1)[:, 0]
