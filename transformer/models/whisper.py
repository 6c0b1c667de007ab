"""Whisper (Radford et al. 2022): a log-mel spectrogram in, the words that are said in it out.

Two convolutions halve the spectrogram's frames, sinusoids join them, and pre-norm blocks encode them; a decoder with
learned positions answers.

Shape letters: B batch, F frames, C bins (of mel) or channels, S places of the encoder, T tokens, D model width.
"""

import dataclasses
import functools
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from transformer import checks
from transformer.layers.cache import EncoderDecoderCache
from transformer.layers.execution import Execution, LayerOutput, Stack
from transformer.layers.heads import BackboneOutput, ClassificationOutput, LanguageModelOutput
from transformer.layers.norm_first import NormFirstBlock, NormFirstDecoderBlock, NormFirstSizes
from transformer.layers.primitives import Dropout, Embedding, Initializer, LayerNorm, Linear, parameter
from transformer.models.architecture import FixedLength
from transformer.models.counting import TokenPlaces
from transformer.models.encoder_decoder import AnsweringBackbone, AnsweringModel, EncoderDecoderConfig
from transformer.ops.attention import Mask
from transformer.ops.elementwise import ACTIVATIONS
from transformer.parallel.rules import RESIDUAL, constrain
from transformer.params import Parameter

_TAPS = 3
"""Width of both convolutions."""
_STRIDE = 2
"""Frames that a place of the encoder stands for: the stride of the second convolution."""


@dataclasses.dataclass(frozen=True)
class WhisperConfig(EncoderDecoderConfig):
    """A Whisper model; the defaults are tiny's, multilingual (37,760,640 parameters)."""

    family: ClassVar[str] = "whisper"
    kind: ClassVar[str] = "speech"
    pre_norm: ClassVar[bool] = True

    vocab_size: int = 51865
    """Byte pairs, languages, tasks and timestamps."""
    width: int = 384
    """Model width: of both residual streams."""
    num_encoder_layers: int = 4
    """The encoder's blocks."""
    num_decoder_layers: int = 4
    """The decoder's blocks."""
    decoder_start_id: int = 50258
    """The token that a transcript starts with: <|startoftranscript|>."""
    head: Literal["language_model", "none"] = "language_model"
    """What the decoder's hidden states are for."""
    num_encoder_heads: int = 6
    """Attention heads of the encoder; they divide the width."""
    num_decoder_heads: int = 6
    """Attention heads of the decoder; they divide the width."""
    encoder_mlp_width: int = 1536
    """Width of the encoder's feed-forward layers."""
    decoder_mlp_width: int = 1536
    """Width of the decoder's feed-forward layers."""
    bins: int = 80
    """Mel bins of a spectrogram's frame; large-v3: 128."""
    encoder_places: int = 1500
    """Places of the encoder, of two frames each: 30 seconds at 100 frames a second."""
    context_length: int = 448
    """Learned positions of the decoder: the most tokens that it can look at."""
    activation: str = "gelu"
    """Activation of the feed-forward layers: gelu (exact), gelu_tanh, relu or silu. The convolutions' is exact GELU."""
    norm_epsilon: float = 1e-5
    """Added to the variance in LayerNorm."""
    dropout: float = 0.0
    """Probability of dropping the embeddings and the sublayers' outputs."""
    attention_dropout: float = 0.0
    """Probability of dropping attention probabilities."""
    mlp_dropout: float = 0.0
    """Probability of dropping the feed-forward layers' hidden values."""

    def __post_init__(self):
        self.check()
        heads, widths = ("num_encoder_heads", "num_decoder_heads"), ("encoder_mlp_width", "decoder_mlp_width")
        checks.at_least(self, 1, *heads, *widths, "bins", "encoder_places", "context_length")
        for field in heads:
            checks.divides(self, field, "width")
        sinusoidal = self.width % 2 == 0 and self.width > 2
        checks.rule(self, "width", sinusoidal, "sines and cosines need an even one above 2")
        checks.within(self, "[0, 1)", "dropout", "attention_dropout", "mlp_dropout")
        checks.above(self, 0, "norm_epsilon")
        checks.choice(self, "activation", ACTIVATIONS)

    @property
    def longest_input(self) -> int | None:
        """The most tokens that it can look at."""
        return self.context_length

    @property
    def frames(self) -> int:
        """Frames of a spectrogram, which it always reads whole."""
        return _STRIDE * self.encoder_places

    @property
    def input_size(self) -> tuple[int, int]:
        """(frames, bins) of a spectrogram."""
        return self.frames, self.bins

    @property
    def fixed_length(self) -> int | None:
        """Places of the encoder."""
        return self.encoder_places

    @property
    def fixed_lengths(self) -> tuple[FixedLength, ...]:
        """The length of the encoder's stack."""
        what = f"a spectrogram, {self.frames:,} frames, two a place"
        return (FixedLength(self.encoder_places, what, ("encoder_places",)),)

    @property
    def places(self) -> "SpeechPlaces":
        """How many places of an example meet what, for counting FLOPs."""
        return SpeechPlaces("encoder_decoder", self.head)

    @property
    def tied_norms(self) -> tuple[str, ...]:
        """Paths of the norms whose output meets the embedding as unembedding."""
        return ("backbone/decoder/final_norm",) if self.head == "language_model" else ()

    @property
    def decoder_heads(self) -> tuple[int, int]:
        """The decoder's attention heads, and the width of each."""
        return self.num_decoder_heads, self.width // self.num_decoder_heads

    @property
    def embedding_init(self) -> Initializer:
        """How the words' embedding starts, as all other matrices: the paper gives no deviation; GPT-2's."""
        return nn.initializers.normal(0.02)

    def example_inputs(self, batch: int = 1, length: int = 1) -> dict[str, Any]:
        """Returns inputs of the model, all zeros: what its `init` needs."""
        tokens = jnp.zeros((batch, length), jnp.int32)
        decoder = {f"decoder_{name}": tokens for name in ("tokens", "positions", "segment_ids")}
        return {"features": jnp.zeros((batch, *self.input_size), jnp.float32), **decoder}

    def build(self, execution: Execution) -> "Whisper":
        """Returns the module: the model without its weights."""
        return Whisper(self, execution)

    def backbone(self, execution: Execution) -> "WhisperBackbone":
        """Returns the model below its head."""
        return WhisperBackbone(self, execution)

    def encoder(self, execution: Execution) -> "WhisperEncoder":
        """Returns the encoder: called as encoder(features_BFC, deterministic=...)."""
        return WhisperEncoder(self, execution)

    def decoder(self, execution: Execution) -> "WhisperDecoder":
        """Returns the decoder above the words' embedding."""
        return WhisperDecoder(self, execution)

    def block_sizes(self, num_heads: int, mlp_width: int) -> NormFirstSizes:
        """Returns the sizes of one side's blocks; keys have no bias."""
        return NormFirstSizes(
            self.width,
            num_heads,
            mlp_width,
            self.activation,
            self.norm_epsilon,
            biases=frozenset({"query", "value", "out"}),
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            mlp_dropout=self.mlp_dropout,
            init=self.embedding_init,
        )


class SpeechPlaces(TokenPlaces):
    """The places of a model that reads frames and answers in tokens; `length` is the encoder's places."""

    def met(self, parameter: Parameter, length: int, target_length: int) -> int:
        """Returns how many places of an example meet a weight: of the first convolution's, the frames."""
        of_frames = parameter.modules[-2:] == ["stem", "first"]
        return super().met(parameter, length, target_length) * (_STRIDE if of_frames else 1)


class Whisper(AnsweringModel):
    """A spectrogram and the words so far in; the next words out."""

    def __call__(
        self,
        features: jax.Array | None = None,
        decoder_tokens: jax.Array | None = None,
        decoder_positions: jax.Array | None = None,
        decoder_segment_ids: jax.Array | None = None,
        *,
        memory: jax.Array | None = None,
        cache: EncoderDecoderCache | None = None,
        deterministic: bool = True,
    ) -> LanguageModelOutput | ClassificationOutput | BackboneOutput:
        """Returns the scores of each next token, or the decoder's hidden states.

        Args:
          features: float32 [B, F, C], the log-mel spectrogram; None: `memory`, or what the cache holds of it.
          decoder_tokens: int32 [B, T], which start with `decoder_start_id`.
          decoder_positions: int32 [B, T]; None: 0, 1, ... T - 1.
          decoder_segment_ids: int32 [B, T]: 1 for a token, 0 for padding. None: no padding.
          memory: [B, S, D], what `encode` made of the features, in their place.
          cache: of earlier tokens, from `init_cache` or an earlier call.
          deterministic: no dropout; otherwise the random stream "dropout" is needed.
        """
        if decoder_tokens is None:
            raise ValueError("a speech model needs decoder_tokens")
        if features is not None:
            memory = self.backbone.encode(features, deterministic=deterministic)
        segment_ids = None
        if memory is not None:
            if cache is not None or decoder_segment_ids is not None:
                segment_ids = jnp.ones(memory.shape[:2], jnp.int32)
        elif cache is None or cache.memory is None:
            raise ValueError("a speech model needs features, or a cache that holds what it made of them")
        else:
            segment_ids = cache.memory_segment_ids_BS
        return self.answer(
            memory,
            segment_ids,
            {},
            decoder_tokens,
            decoder_positions,
            decoder_segment_ids,
            cache=cache,
            deterministic=deterministic,
        )

    def encode(self, features: jax.Array, *, deterministic: bool = True) -> jax.Array:
        """Returns [B, S, D]: the encoder's hidden states. Arguments as `__call__`'s."""
        return self.backbone.encode(features, deterministic=deterministic)


class WhisperBackbone(AnsweringBackbone):
    """Both sides: a spectrogram and tokens in, the decoder's hidden states out."""

    def encode(self, features_BFC: jax.Array, *, deterministic: bool) -> jax.Array:
        """Returns [B, S, D], what the decoder attends to."""
        return self.encoder(features_BFC, deterministic=deterministic)


class WhisperEncoder(nn.Module):
    """Convolutions, stored sinusoids, blocks, a norm."""

    config: WhisperConfig
    execution: Execution

    @nn.compact
    def __call__(self, features_BFC: jax.Array, *, deterministic: bool) -> jax.Array:
        """Returns [B, S, D]; raises ValueError for a spectrogram of another size."""
        config, execution = self.config, self.execution
        if features_BFC.shape[1:] != config.input_size:
            raise ValueError(f"features of {features_BFC.shape[1:]} (frames, bins), not {config.input_size}")
        x_BSD = Stem(config.width, execution.compute_dtype, config.embedding_init, name="stem")(features_BFC)
        # A parameter, as files store it, and not as it would be computed here; but no gradient ever reaches it.
        shape = (config.encoder_places, config.width)
        positions_SD = jax.lax.stop_gradient(parameter(self, "sinusoids", _sinusoids, ("frames", "embed"), shape))
        x_BSD = (x_BSD.astype(jnp.float32) + positions_SD[None]).astype(execution.compute_dtype)
        x_BSD = constrain(Dropout(config.dropout)(x_BSD, deterministic=deterministic), *RESIDUAL)
        sizes = config.block_sizes(config.num_encoder_heads, config.encoder_mlp_width)
        make_block = functools.partial(NormFirstBlock, sizes, execution)
        stack = Stack(make_block, config.num_encoder_layers, execution, name="stack")
        x_BSD, _ = stack(x_BSD, None, Mask(), deterministic=deterministic)
        return LayerNorm(config.norm_epsilon, execution.compute_dtype, name="final_norm")(x_BSD)


class Stem(nn.Module):
    """gelu(convolution) twice, the second with stride 2: section 2.2."""

    width: int
    dtype: Any
    init: Initializer

    @nn.compact
    def __call__(self, x_BFC: jax.Array) -> jax.Array:
        """Returns [B, F / 2, D]."""
        for name, stride in (("first", 1), ("second", _STRIDE)):
            # A convolution is a linear layer of each place's neighbours, which has a linear layer's gradients.
            taps = ("taps", "channels", "embed")
            convolution = Linear((self.width,), taps, self.dtype, kernel_init=self.init, name=name)
            x_BFC = jax.nn.gelu(convolution(_neighbours(x_BFC.astype(self.dtype), stride)), approximate=False)
        return x_BFC


class WhisperDecoder(nn.Module):
    """Learned positions, blocks that look at the encoder's output too, a norm."""

    config: WhisperConfig
    execution: Execution

    @nn.compact
    def __call__(
        self, x_BTD: jax.Array, positions_BT: jax.Array, key_positions_BS: jax.Array, caches: Any, *shared: Any,
        deterministic: bool,
    ) -> tuple[jax.Array, LayerOutput]:  # fmt: skip
        """Returns [B, T, D] and what the blocks return beside it; called as `EncoderDecoderConfig.decoder` says."""
        del key_positions_BS
        config, dtype = self.config, self.execution.compute_dtype
        length, context = x_BTD.shape[1], config.context_length
        if length > context:
            raise ValueError(f"{length} tokens for a context of {context}")
        # In float32, as the gradient of positions that all rows share is a sum over the batch.
        names = ("positions", "embed")
        positions = Embedding(
            context, config.width, names, jnp.float32, config.embedding_init, name="position_embedding"
        )
        x_BTD = (x_BTD.astype(jnp.float32) + positions(positions_BT)).astype(dtype)
        x_BTD = constrain(Dropout(config.dropout)(x_BTD, deterministic=deterministic), *RESIDUAL)
        sizes = config.block_sizes(config.num_decoder_heads, config.decoder_mlp_width)
        make_block = functools.partial(NormFirstDecoderBlock, sizes, self.execution)
        stack = Stack(make_block, config.num_decoder_layers, self.execution, name="stack")
        x_BTD, output = stack(x_BTD, caches, *shared, deterministic=deterministic)
        return LayerNorm(config.norm_epsilon, dtype, name="final_norm")(x_BTD), output


def _neighbours(x_BFC: jax.Array, stride: int) -> jax.Array:
    """Returns [B, F / stride, taps, C]: of every stride-th frame, the one before it, itself and the one after it.

    Beyond both ends are zeros.
    """
    last = (x_BFC.shape[1] - 1) // stride * stride
    padded = jnp.pad(x_BFC, ((0, 0), (1, 1), (0, 0)))
    return jnp.stack([padded[:, tap : tap + last + 1 : stride] for tap in range(_TAPS)], axis=2)


def sinusoid_table(places: int, width: int) -> np.ndarray:
    """Returns float32 [S, D]: all sines, then all cosines, of wavelengths from 2 pi to 10000 * 2 pi, both included."""
    rates = 10000.0 ** (-np.arange(width // 2) / (width // 2 - 1))
    angles = np.arange(places)[:, None] * rates
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1).astype(np.float32)


def _sinusoids(key: jax.Array, shape: tuple[int, int], dtype: Any) -> jax.Array:
    del key
    return jnp.asarray(sinusoid_table(*shape), dtype)
