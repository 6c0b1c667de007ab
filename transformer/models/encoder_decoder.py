"""An encoder-decoder: two stacks over one embedding, under a head (Vaswani et al. 2017, figure 1).

The side that answers (`AnsweringBackbone`, `AnsweringModel`) does not know what the encoder reads: a family whose
source is no text has a module and a backbone of its own, which encode it.

Shape letters: B batch, S length of the encoder's sequence (the source), T of the decoder's (the target), D model width.
"""

import abc
import dataclasses
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer import checks
from transformer.layers.cache import DecoderLayerCache, EncoderDecoderCache, KVCache
from transformer.layers.execution import Execution, show
from transformer.layers.heads import (
    BackboneOutput,
    ClassificationHead,
    ClassificationOutput,
    LanguageModelHead,
    LanguageModelOutput,
)
from transformer.layers.primitives import Embedding, Initializer
from transformer.layers.routing import Routers
from transformer.models.architecture import Architecture
from transformer.models.decoder import causal_masks, last_token
from transformer.ops.attention import Mask

EncoderDecoderHead = Literal["language_model", "sequence_classification", "question_answering", "none"]


@dataclasses.dataclass(frozen=True)
class EncoderDecoderConfig(Architecture):
    """What every encoder-decoder's config has; the defaults are the base model's of 2017, as T5 small's.

    A family gives its two sides, and this the rest.
    """

    kind: ClassVar[str] = "encoder_decoder"
    heads: ClassVar[tuple[str, ...]] = ("language_model", "none")
    """What `head` may be."""

    vocab_size: int
    width: int = 512
    """Model width: of both residual streams."""
    num_encoder_layers: int = 6
    """The encoder's blocks."""
    num_decoder_layers: int = 6
    """The decoder's blocks."""
    decoder_start_id: int = 0
    """The token that a decoder's input starts with: the target is shifted right behind it."""
    head: Literal["language_model", "none"] = "language_model"
    """What the decoder's hidden states are for; a family may have more of `EncoderDecoderHead`."""
    num_labels: int = 2
    """Classes of a classification head."""

    @abc.abstractmethod
    def encoder(self, execution: Execution) -> nn.Module:
        """Returns the encoder above the words' embedding: called as the decoder, without a cache and memory."""

    @abc.abstractmethod
    def decoder(self, execution: Execution) -> nn.Module:
        """Returns the decoder above the words' embedding.

        It is called as decoder(x_BTD, positions_BT, key_positions_BS, caches, mask, memory_BSD, memory_mask,
        deterministic=...) and returns [B, T, D] and all layers' `LayerOutput`.
        """

    @property
    @abc.abstractmethod
    def decoder_heads(self) -> tuple[int, int]:
        """The decoder's attention heads, and the width of each."""

    @property
    @abc.abstractmethod
    def embedding_init(self) -> Initializer:
        """How the words' embedding starts."""

    def language_model_head(self) -> LanguageModelHead:
        """Returns the head of next words: the embedding."""
        return LanguageModelHead(self.vocab_size, tied=True)

    def classification_head(self, dtype: Any) -> ClassificationHead:
        """Returns the head of classes: of sequences, or of an answer's start and end."""
        return ClassificationHead(2 if self.head == "question_answering" else self.num_labels, dtype)

    def build(self, execution: Execution) -> "AnsweringModel":
        """Returns the module: the model without its weights."""
        return EncoderDecoder(self, execution)

    def backbone(self, execution: Execution) -> "AnsweringBackbone":
        """Returns the model below its head."""
        return EncoderDecoderBackbone(self, execution)

    @property
    def first_decoder_token(self) -> int:
        return self.decoder_start_id

    @property
    def stacks(self) -> dict[str, int]:
        """Module that holds a side's stack of layers -> how many."""
        return {"encoder": self.num_encoder_layers, "decoder": self.num_decoder_layers}

    def check(self) -> None:
        """Raises `UserError` where a field that all families have is impossible."""
        checks.at_least(self, 1, "vocab_size", "width", "num_encoder_layers", "num_decoder_layers")
        self.check_labels()
        checks.choice(self, "head", self.heads)
        inside = 0 <= self.decoder_start_id < self.vocab_size
        told = f"`decoder_start_id` {self.decoder_start_id} is no token: `vocab_size` is {self.vocab_size}"
        checks.require(self, inside, told)


class AnsweringBackbone(nn.Module):
    """Both sides and the embedding of words: the encoder's output and tokens in, the decoder's hidden states out."""

    config: EncoderDecoderConfig
    execution: Execution

    def setup(self):
        config, dtype = self.config, self.execution.compute_dtype
        names = ("vocab", "embed")
        self.token_embedding = Embedding(config.vocab_size, config.width, names, dtype, config.embedding_init)
        self.encoder = config.encoder(self.execution)
        self.decoder = config.decoder(self.execution)

    def decode(
        self,
        tokens_BT: jax.Array,
        positions_BT: jax.Array,
        segment_ids_BT: jax.Array | None,
        memory_BSD: jax.Array | None,
        memory_segment_ids_BS: jax.Array | None,
        *,
        cache: EncoderDecoderCache | None,
        deterministic: bool,
    ) -> tuple[jax.Array, EncoderDecoderCache | None, Routers]:
        """Returns [B, T, D], the sums of experts' routers last, and between them the cache where one was given.

        That then has the new tokens and the encoder's output.

        Args as `EncoderDecoder.__call__`'s of the target, and:
          memory_BSD: the encoder's output; None: the cache holds what the decoder makes of it.
          memory_segment_ids_BS: int32, None exactly if `segment_ids_BT` is.
        """
        own = None if cache is None else cache.own
        [mask], layers, own = causal_masks(own, positions_BT, segment_ids_BT, None, None)
        caches = None if cache is None or layers is None else DecoderLayerCache(layers, cache.memory)
        key_positions_BS = positions_BT if own is None else own.positions_BS
        memory_mask = Mask(q_segment_ids_BT=segment_ids_BT, kv_segment_ids_BS=memory_segment_ids_BS)
        x_BTD = self.token_embedding(tokens_BT)
        x_BTD, output = self.decoder(
            x_BTD, positions_BT, key_positions_BS, caches, mask, memory_BSD, memory_mask, deterministic=deterministic
        )
        if cache is None or own is None:
            return x_BTD, None, output.routers
        new_own, memory = output.cache
        memory = cache.memory if memory is None else memory
        return x_BTD, EncoderDecoderCache(own.write(*new_own), memory, memory_segment_ids_BS), output.routers


class EncoderDecoderBackbone(AnsweringBackbone):
    """Both sides and the embedding that they share: tokens in, the decoder's hidden states out."""

    def encode(
        self, tokens_BS: jax.Array, positions_BS: jax.Array, segment_ids_BS: jax.Array | None, *, deterministic: bool
    ) -> tuple[jax.Array, Routers]:
        """Returns [B, S, D], what the decoder attends to, and the sums of experts' routers."""
        mask = Mask.self_attention(segment_ids_BS, causal=False)
        x_BSD = self.token_embedding(tokens_BS)
        x_BSD, output = self.encoder(x_BSD, positions_BS, positions_BS, None, mask, deterministic=deterministic)
        return x_BSD, output.routers


class AnsweringModel(nn.Module):
    """A backbone whose decoder answers, and its head; a subclass's `__call__` encodes what it reads."""

    config: EncoderDecoderConfig
    execution: Execution

    def setup(self):
        config = self.config
        self.backbone: Any = config.backbone(self.execution)
        if config.head == "language_model":
            self.head: Any = config.language_model_head()
        elif config.head != "none":
            self.head = config.classification_head(self.execution.compute_dtype)

    def answer(
        self,
        memory_BSD: jax.Array | None,
        memory_segment_ids: jax.Array | None,
        routers: Routers,
        decoder_tokens: jax.Array,
        decoder_positions: jax.Array | None,
        decoder_segment_ids: jax.Array | None,
        *,
        cache: EncoderDecoderCache | None,
        deterministic: bool,
    ) -> LanguageModelOutput | ClassificationOutput | BackboneOutput:
        """Returns what the head makes of the decoder's hidden states.

        Args as `EncoderDecoder.__call__`'s of the target, and:
          memory_BSD: the encoder's output; None: the cache holds what the decoder makes of it.
          memory_segment_ids: int32 [B, S]; without a cache, None exactly if `decoder_segment_ids` is.
          routers: the sums of the encoder's experts' routers.
        """
        if cache is not None and decoder_positions is None:
            raise ValueError("a cache needs decoder_positions")
        if cache is not None and decoder_segment_ids is None:
            decoder_segment_ids = jnp.ones_like(decoder_tokens)
        hidden_BTD, cache, of_decoder = self.backbone.decode(
            decoder_tokens,
            _indices(decoder_positions, decoder_tokens),
            decoder_segment_ids,
            memory_BSD,
            memory_segment_ids,
            cache=cache,
            deterministic=deterministic,
        )
        show(self, "states", "last", hidden_BTD)
        routers = routers | of_decoder
        if self.config.head == "none":
            return BackboneOutput(hidden_BTD, cache=cache, routers=routers)
        if self.config.head == "language_model":
            words = self.head(hidden_BTD, self.backbone.token_embedding.embedding, cache)
            return words.replace(routers=routers)
        if self.config.head == "sequence_classification":
            hidden_BTD = last_token(hidden_BTD, decoder_segment_ids)
        return ClassificationOutput(self.head(hidden_BTD, deterministic=deterministic), routers)

    @nn.nowrap
    def init_cache(self, batch: int, length: int) -> EncoderDecoderCache:
        """Returns an empty cache of `length` target tokens for `batch` rows, in the compute dtype."""
        heads, head_width = self.config.decoder_heads
        layers, dtype = self.config.num_decoder_layers, self.execution.compute_dtype
        return EncoderDecoderCache(KVCache.empty(layers, batch, length, heads, head_width, dtype))


class EncoderDecoder(AnsweringModel):
    """Two sequences of tokens in; the second one's next words, classes, or hidden states out."""

    def __call__(
        self,
        tokens: jax.Array | None = None,
        positions: jax.Array | None = None,
        segment_ids: jax.Array | None = None,
        decoder_tokens: jax.Array | None = None,
        decoder_positions: jax.Array | None = None,
        decoder_segment_ids: jax.Array | None = None,
        *,
        cache: EncoderDecoderCache | None = None,
        deterministic: bool = True,
    ) -> LanguageModelOutput | ClassificationOutput | BackboneOutput:
        """Returns the scores of each next target token; or of classes; or the decoder's hidden states.

        A sequence's class is read off its last target token that is no padding; an answer's start and end off each.

        Args:
          tokens: int32 [B, S], the source; None: what the cache holds of it from the first call.
          positions: int32 [B, S], of the tokens in their segments; None: 0, 1, ... S - 1.
          segment_ids: int32 [B, S]. A token, source or target, attends to tokens of its segment; 0 is padding. None:
            one segment, no padding.
          decoder_tokens: int32 [B, T], the target, which starts with `decoder_start_id`.
          decoder_positions: int32 [B, T], as above.
          decoder_segment_ids: int32 [B, T], as above: a target has the same number as its source.
          cache: of earlier target tokens, from `init_cache` or an earlier call.
          deterministic: no dropout; otherwise the random stream "dropout" is needed.
        """
        if decoder_tokens is None:
            raise ValueError("an encoder-decoder needs decoder_tokens")
        routers: Routers = {}
        if tokens is not None:
            positions = _indices(positions, tokens)
            memory_BSD, routers = self.backbone.encode(tokens, positions, segment_ids, deterministic=deterministic)
        elif cache is None or cache.memory is None:
            raise ValueError("an encoder-decoder needs tokens, or a cache that holds what it made of them")
        else:
            memory_BSD, segment_ids = None, cache.memory_segment_ids_BS
        if cache is not None or (segment_ids is None) != (decoder_segment_ids is None):
            segment_ids = _given(segment_ids, tokens)
            decoder_segment_ids = _given(decoder_segment_ids, decoder_tokens)
        return self.answer(
            memory_BSD,
            segment_ids,
            routers,
            decoder_tokens,
            decoder_positions,
            decoder_segment_ids,
            cache=cache,
            deterministic=deterministic,
        )

    def encode(
        self,
        tokens: jax.Array,
        positions: jax.Array | None = None,
        segment_ids: jax.Array | None = None,
        *,
        deterministic: bool = True,
    ) -> jax.Array:
        """Returns [B, S, D]: the encoder's hidden states. Arguments as `__call__`'s."""
        return self.backbone.encode(tokens, _indices(positions, tokens), segment_ids, deterministic=deterministic)[0]


def _indices(positions_BT: jax.Array | None, tokens_BT: jax.Array) -> jax.Array:
    """Returns the positions; where there are none, [1, T], so that what follows from them is computed once a batch."""
    return jnp.arange(tokens_BT.shape[1], dtype=jnp.int32)[None] if positions_BT is None else positions_BT


def _given(segment_ids_BT: jax.Array | None, tokens_BT: jax.Array | None) -> jax.Array:
    """Returns the segment ids or, where there are none, those of one segment."""
    if segment_ids_BT is not None:
        return segment_ids_BT
    assert tokens_BT is not None  # a cache has its segment ids
    return jnp.ones_like(tokens_BT)
