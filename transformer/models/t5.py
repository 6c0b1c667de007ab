"""T5 (Raffel et al. 2020), its version 1.1, and mT5 (Xue et al. 2021): pre-norm blocks, a bias by relative positions.

Shape letters: B batch, T length, S length of the encoder's sequence, D model width, H heads.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer import checks
from transformer.layers.attention import Attention, KeysValues
from transformer.layers.blocks import memory_keys_values, to_cache
from transformer.layers.cache import DecoderLayerCache
from transformer.layers.execution import Execution, LayerOutput, Stack
from transformer.layers.experts import Experts
from transformer.layers.experts_config import ExpertsConfig
from transformer.layers.heads import ClassificationHead, LanguageModelHead
from transformer.layers.mlp import MLP, GatedMLP
from transformer.layers.primitives import Dropout, Initializer, RMSNorm
from transformer.layers.relative_bias import RelativeBias
from transformer.layers.routing import Routers
from transformer.models.encoder_decoder import EncoderDecoderConfig
from transformer.ops.attention import Mask
from transformer.ops.elementwise import ACTIVATIONS
from transformer.parallel.rules import RESIDUAL, constrain


@dataclasses.dataclass(frozen=True)
class T5Config(EncoderDecoderConfig):
    """A T5 or mT5 model; the defaults are T5 small's (60,506,624 parameters)."""

    family: ClassVar[str] = "t5"
    pre_norm: ClassVar[bool] = True
    heads: ClassVar[tuple[str, ...]] = ("language_model", "sequence_classification", "none")

    vocab_size: int = 32128
    """SentencePiece's 32,000 pieces, 100 sentinels, and padding to a multiple of 128."""
    decoder_start_id: int = 0
    """The token that a decoder's input starts with: padding."""
    head: Literal["language_model", "sequence_classification", "none"] = "language_model"
    """What the decoder's hidden states are for."""
    num_heads: int = 8
    """Attention heads, of both sides."""
    head_width: int = 64
    """Width of a head; heads times it need not be the model width (T5 11B: 128 heads of 128, for 1024)."""
    mlp_width: int = 2048
    """Width of the feed-forward layers."""
    activation: str = "relu"
    """Activation of the feed-forward layers: relu (1.0), gelu_tanh (1.1), gelu or silu."""
    gated: bool = False
    """Whether the feed-forward layers are gated (1.1: GEGLU, Shazeer 2020)."""
    experts: ExpertsConfig | None = None
    """Experts in the place of every feed-forward layer, on both sides; None: there are none, as in the paper."""
    relative_buckets: int = 32
    """Buckets of distances between tokens, each with a bias a head."""
    relative_distance: int = 128
    """Distance from which on all keys share a bucket."""
    norm_epsilon: float = 1e-6
    """Added to the mean square in RMSNorm."""
    dropout: float = 0.1
    """Probability of dropping embeddings, attention probabilities, hidden values and outputs (1.1's pretraining: 0)."""
    tie_embeddings: bool = True
    """Whether the head is the embedding, its input scaled by width ** -0.5 (1.0); or a matrix of its own (1.1)."""
    classifier_dropout: float = 0.0
    """Probability of dropping what a classification head reads."""

    def __post_init__(self):
        self.check()
        checks.at_least(self, 1, "num_heads", "head_width", "mlp_width")
        fits = self.relative_buckets >= 4 and self.relative_buckets % 4 == 0
        checks.rule(self, "relative_buckets", fits, "it must be a multiple of 4")
        shortest = self.relative_buckets // 2
        far = f"it must be above `relative_buckets` / 2 = {shortest}"
        checks.rule(self, "relative_distance", self.relative_distance > shortest, far)
        checks.within(self, "[0, 1)", "dropout", "classifier_dropout")
        checks.above(self, 0, "norm_epsilon")
        checks.choice(self, "activation", ACTIVATIONS)

    @property
    def routing(self) -> ExpertsConfig | None:
        return self.experts

    @property
    def scales_scores(self) -> bool:
        """Whether attention divides its scores by the square root of the head width: it does not."""
        return False

    @property
    def decoder_heads(self) -> tuple[int, int]:
        """The decoder's attention heads, and the width of each."""
        return self.num_heads, self.head_width

    @property
    def embedding_init(self) -> Initializer:
        """How the words' embedding starts (Mesh TensorFlow: N(0, 1); a tied head scales it down)."""
        return nn.initializers.normal(1.0)

    @property
    def unembedding_scale(self) -> float:
        """What is multiplied with the hidden states that meet the embedding as unembedding."""
        return self.width**-0.5

    @property
    def tied_norms(self) -> tuple[str, ...]:
        """Paths of the norms whose output meets the embedding as unembedding."""
        tied = self.tie_embeddings and self.head == "language_model"
        return ("backbone/decoder/final_norm",) if tied else ()

    def language_model_head(self) -> LanguageModelHead:
        """Returns the head of next words: the embedding, behind hidden states scaled down, or a matrix of its own."""
        if self.tie_embeddings:
            return LanguageModelHead(self.vocab_size, tied=True, scale=self.unembedding_scale)
        return LanguageModelHead(self.vocab_size, tied=False, kernel_init=nn.initializers.normal(self.width**-0.5))

    def classification_head(self, dtype: Any) -> ClassificationHead:
        """Returns the head of classes, as BART's; the paper tells classes in words instead."""
        init = nn.initializers.normal(self.width**-0.5)
        return ClassificationHead(self.num_labels, dtype, "tanh", self.classifier_dropout, kernel_init=init)

    def encoder(self, execution: Execution) -> "T5Side":
        """Returns the encoder above the words' embedding."""
        return T5Side(self, T5EncoderBlock, self.num_encoder_layers, True, execution)

    def decoder(self, execution: Execution) -> "T5Side":
        """Returns the decoder above the words' embedding."""
        return T5Side(self, T5DecoderBlock, self.num_decoder_layers, False, execution)


class _T5Block(nn.Module):
    """What the blocks of both sides share. Its methods make submodules of the block whose `__call__` calls them."""

    config: T5Config
    execution: Execution

    @nn.nowrap
    def make_attention(self, name: str) -> Attention:
        """Returns attention without biases and without a scale of its scores: the queries start smaller instead."""
        config, normal = self.config, nn.initializers.normal
        return Attention(
            config.width,
            config.num_heads,
            config.head_width,
            self.execution,
            biases=frozenset(),
            scale=1.0,
            dropout=config.dropout,
            query_init=normal((config.width * config.head_width) ** -0.5),
            kernel_init=normal(config.width**-0.5),
            out_init=normal((config.num_heads * config.head_width) ** -0.5),
            name=name,
        )

    @nn.nowrap
    def norm(self, name: str, x_BTD: jax.Array) -> jax.Array:
        """Returns the input of the sublayer `name`, [B, T, D]."""
        return RMSNorm(self.config.norm_epsilon, self.execution.compute_dtype, name=f"{name}_norm")(x_BTD)

    @nn.nowrap
    def add(self, x_BTD: jax.Array, out_BTD: jax.Array, deterministic: bool) -> jax.Array:
        """Returns x + dropout(out), [B, T, D]."""
        out_BTD = Dropout(self.config.dropout)(out_BTD, deterministic=deterministic)
        return constrain(x_BTD + out_BTD, *RESIDUAL)

    @nn.nowrap
    def feed_forward(self, x_BTD: jax.Array, mask: Mask, deterministic: bool) -> tuple[jax.Array, Routers]:
        """Returns x + mlp(norm(x)), [B, T, D], and the sums of experts' routers."""
        config, dtype, normal = self.config, self.execution.compute_dtype, nn.initializers.normal
        wide, normed_BTD = normal(config.width**-0.5), self.norm("mlp", x_BTD)
        if config.experts is None:
            mlp = (GatedMLP if config.gated else MLP)(
                config.mlp_width,
                config.activation,
                dtype,
                use_bias=False,
                kernel_init=wide,
                out_init=normal(config.mlp_width**-0.5),
                dropout=config.dropout,
                name="mlp",
            )
            out_BTD, routers = mlp(normed_BTD, deterministic=deterministic), {}
        else:
            narrow = normal(config.experts.mlp_width**-0.5)
            experts = Experts(config.experts, config.activation, dtype, config.gated, wide, narrow, name="mlp")
            out_BTD, routers = experts(normed_BTD, mask.q_segment_ids_BT, deterministic=deterministic)
        return self.add(x_BTD, out_BTD, deterministic), routers


class T5EncoderBlock(_T5Block):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    @nn.compact
    def __call__(
        self, x_BTD: jax.Array, caches: None, bias_BHTS: jax.Array, mask: Mask, *, deterministic: bool
    ) -> tuple[jax.Array, LayerOutput]:
        """Returns [B, T, D]."""
        attention = self.make_attention("attention")
        attended_BTD, _ = attention(self.norm("attention", x_BTD), mask, bias=bias_BHTS, deterministic=deterministic)
        x_BTD = self.add(x_BTD, attended_BTD, deterministic)
        x_BTD, routers = self.feed_forward(x_BTD, mask, deterministic)
        return x_BTD, LayerOutput(caches, routers)


class T5DecoderBlock(_T5Block):
    """x + attention(norm(x)), x + attention(norm(x)) over the encoder's output, x + mlp(norm(x))."""

    @nn.compact
    def __call__(
        self,
        x_BTD: jax.Array,
        cache: DecoderLayerCache | None,
        bias_BHTS: jax.Array,
        mask: Mask,
        memory_BSD: jax.Array | None,
        memory_mask: Mask,
        *,
        deterministic: bool,
    ) -> tuple[jax.Array, LayerOutput]:
        """Returns [B, T, D] and what a cache lacks so far: arguments as `PostNormDecoderBlock`'s.

        The bias is of the decoder's own tokens; attention over the encoder's output has none.
        """
        own = None if cache is None else cache.own
        attended_BTD, new = self.make_attention("attention")(
            self.norm("attention", x_BTD), mask, cache=own, bias=bias_BHTS, deterministic=deterministic
        )
        x_BTD = self.add(x_BTD, attended_BTD, deterministic)
        cross = self.make_attention("cross_attention")
        memory: KeysValues = memory_keys_values(cross, memory_BSD, cache)
        normed_BTD = self.norm("cross_attention", x_BTD)
        attended_BTD = cross.attend(normed_BTD, memory, memory_mask, deterministic=deterministic)
        x_BTD = self.add(x_BTD, attended_BTD, deterministic)
        x_BTD, routers = self.feed_forward(x_BTD, mask, deterministic)
        return x_BTD, LayerOutput(to_cache(new, memory, memory_BSD), routers)


class T5Side(nn.Module):
    """An encoder or a decoder: blocks that share one bias by relative positions, and a last norm."""

    config: T5Config
    block: Callable[..., nn.Module]
    num_layers: int
    bidirectional: bool
    execution: Execution

    def setup(self):
        config = self.config
        self.dropout = Dropout(config.dropout)
        self.relative_bias = RelativeBias(
            config.num_heads,
            config.relative_buckets,
            config.relative_distance,
            self.bidirectional,
            nn.initializers.normal(config.width**-0.5),
        )
        make_block = functools.partial(self.block, config, self.execution)
        self.stack = Stack(make_block, self.num_layers, self.execution)
        self.final_norm = RMSNorm(config.norm_epsilon, self.execution.compute_dtype)

    def __call__(
        self, x_BTD: jax.Array, positions_BT: jax.Array, key_positions_BS: jax.Array, caches: Any, *shared: Any,
        deterministic: bool,
    ) -> tuple[jax.Array, LayerOutput]:  # fmt: skip
        """Returns [B, T, D] and what the blocks return beside it; called as `EncoderDecoderConfig.decoder` says."""
        mask: Mask = shared[0]
        if mask.aligned:
            # Within a segment, positions are as far apart as the tokens in their row: one bias serves all rows.
            positions_BT = key_positions_BS = jnp.arange(x_BTD.shape[1], dtype=jnp.int32)[None]
        bias_BHTS = self.relative_bias(positions_BT, key_positions_BS)
        x_BTD = constrain(self.dropout(x_BTD, deterministic=deterministic), *RESIDUAL)
        x_BTD, output = self.stack(x_BTD, caches, bias_BHTS, *shared, deterministic=deterministic)
        return self.dropout(self.final_norm(x_BTD), deterministic=deterministic), output
