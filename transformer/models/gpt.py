"""GPT-2 and GPT-3: a decoder of pre-norm blocks with learned positions.

Radford et al. 2019, "Language models are unsupervised multitask learners"; Brown et al. 2020, section 2.1. GPT-3 has
"alternating dense and locally banded sparse attention patterns in the layers": a config's `band`. Stanford CRFM's
GPT-2s (Karamcheti et al. 2021, "Mistral - a journey towards reproducible language model training") also divide the
scores of layer n by n: `divide_scores_by_layer`.

Shape letters: B batch, T length, D model width, V vocabulary, N layers.
"""

import dataclasses
import functools
import operator
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from transformer import checks
from transformer.layers.attention import Attention
from transformer.layers.cache import LayerCache
from transformer.layers.execution import Execution, LayerOutput, Stack
from transformer.layers.mlp import MLP
from transformer.layers.primitives import Dropout, Embedding, LayerNorm
from transformer.models.decoder import DecoderConfig
from transformer.ops.attention import Mask
from transformer.parallel.rules import RESIDUAL, constrain


@dataclasses.dataclass(frozen=True)
class GPTConfig(DecoderConfig):
    """A GPT-2 or GPT-3 model; the defaults are GPT-2 small's (124,439,808 parameters)."""

    family: ClassVar[str] = "gpt"
    pre_norm: ClassVar[bool] = True

    mlp_width: int | None = None
    """Width of the feed-forward layers; None: four times the model width."""
    dropout: float = 0.1
    """Probability of dropping embeddings, attention probabilities and sublayer outputs (GPT-2: 0.1; GPT-3: 0)."""
    band: int | None = None
    """Tokens back that every second layer sees, the token itself included, from the second layer on; None: all."""
    scale_scores: bool = True
    """Whether attention divides its scores by the square root of the head width."""
    divide_scores_by_layer: bool = False
    """Whether attention divides its scores by the layer's number too, counted from 1 (Stanford CRFM's GPT-2s)."""

    def __post_init__(self):
        super().__post_init__()
        checks.divides(self, "num_heads", "width")
        checks.at_least(self, 1, "mlp_width", "band")
        even = self.band is None or self.num_layers % 2 == 0
        checks.rule(self, "num_layers", even, "dense and banded layers take turns, so it must be even")
        checks.within(self, "[0, 1)", "dropout")

    @property
    def head_width(self) -> int:
        """Width of a head."""
        return self.width // self.num_heads

    @property
    def feed_forward_width(self) -> int:
        """`mlp_width`, its default worked out."""
        return 4 * self.width if self.mlp_width is None else self.mlp_width

    @property
    def scales_scores(self) -> bool:
        """Whether attention divides its scores by the square root of the head width."""
        return self.scale_scores

    def score_scales(self) -> jax.Array | None:
        """Returns what each layer's attention multiplies its scores with, float32 [N]; None: all alike."""
        if not self.divide_scores_by_layer:
            return None
        return jnp.float32(self.score_scale) / jnp.arange(1, self.num_layers + 1, dtype=jnp.float32)

    @property
    def score_scale(self) -> float:
        """What attention multiplies its scores with, before a division by the layer's number."""
        return self.head_width**-0.5 if self.scale_scores else 1.0

    @property
    def attention_windows(self) -> tuple[int | None, ...]:
        """How many tokens back the layers' queries see, in turns."""
        return (None,) if self.band is None else (None, self.band)

    def backbone(self, execution: Execution) -> "GPTBackbone":
        """Returns the model below its head."""
        return GPTBackbone(self, execution)


class GPTLayer(struct.PyTreeNode):
    """What differs from layer to layer besides the parameters; stacked on the first axis, what all layers get."""

    cache: LayerCache | None
    """Keys and values of earlier tokens."""
    score_scale: jax.Array | None
    """What attention multiplies its scores with, float32 scalar; None: the config's `score_scale`."""


class GPTBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): GPT-2's pre-norm block."""

    config: GPTConfig
    execution: Execution

    @nn.compact
    def __call__(
        self, x_BTD: jax.Array, layer: GPTLayer, mask: Mask, *, deterministic: bool
    ) -> tuple[jax.Array, LayerOutput]:
        """Returns [B, T, D] and, with a cache, this layer's new keys and values."""
        config, dtype = self.config, self.execution.compute_dtype
        # GPT-2, section 2.3: what adds to the residual stream starts smaller, by the square root of how much adds up.
        out_init = nn.initializers.normal(0.02 * (2 * config.num_layers) ** -0.5)
        attention = Attention(
            config.width,
            config.num_heads,
            config.head_width,
            self.execution,
            scale=config.score_scale,
            dropout=config.dropout,
            out_init=out_init,
            name="attention",
        )
        mlp = MLP(config.feed_forward_width, config.activation, dtype, out_init=out_init, name="mlp")
        drop = functools.partial(Dropout(config.dropout), deterministic=deterministic)

        normed_BTD = LayerNorm(config.norm_epsilon, dtype, name="attention_norm")(x_BTD)
        attended_BTD, new = attention(
            normed_BTD, mask, cache=layer.cache, scale=layer.score_scale, deterministic=deterministic
        )
        x_BTD = constrain(x_BTD + drop(attended_BTD), *RESIDUAL)
        normed_BTD = LayerNorm(config.norm_epsilon, dtype, name="mlp_norm")(x_BTD)
        return constrain(x_BTD + drop(mlp(normed_BTD)), *RESIDUAL), LayerOutput(new)


class GPTPair(nn.Module):
    """A block that sees all earlier tokens, then one that sees those of a band."""

    config: GPTConfig
    execution: Execution

    @nn.compact
    def __call__(
        self, x_BTD: jax.Array, layers: GPTLayer, dense: Mask, banded: Mask, *, deterministic: bool
    ) -> tuple[jax.Array, LayerOutput]:
        """Returns [B, T, D] and, with a cache, both layers' new keys and values, [2, ...]."""
        every = []
        for index, (name, mask) in enumerate((("dense", dense), ("banded", banded))):
            layer = jax.tree.map(operator.itemgetter(index), layers)
            x_BTD, output = GPTBlock(self.config, self.execution, name=name)(
                x_BTD, layer, mask, deterministic=deterministic
            )
            every.append(output)
        return x_BTD, jax.tree.map(lambda *new: jnp.stack(new), *every)


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
        block, layers = (GPTBlock, config.num_layers) if config.band is None else (GPTPair, config.num_layers // 2)
        self.stack = Stack(functools.partial(block, config, self.execution), layers, self.execution)
        self.final_norm = LayerNorm(config.norm_epsilon, dtype)

    def __call__(
        self, tokens_BT: jax.Array, positions_BT: jax.Array, cache: LayerCache | None, *masks: Mask, deterministic: bool
    ) -> tuple[jax.Array, LayerOutput]:
        """Returns [B, T, D] and, with a cache, all layers' new keys and values."""
        x_BTD = self.token_embedding(tokens_BT) + self.position_embedding(positions_BT)
        x_BTD = constrain(self.dropout(x_BTD, deterministic=deterministic), *RESIDUAL)
        layers = GPTLayer(cache, self.config.score_scales())
        if self.config.band is None:
            x_BTD, output = self.stack(x_BTD, layers, *masks, deterministic=deterministic)
        else:  # what a layer gets is its own, the stack's parts are a pair's
            pairs = jax.tree.map(lambda leaf: leaf.reshape(-1, 2, *leaf.shape[1:]), layers)
            x_BTD, output = self.stack(x_BTD, pairs, *masks, deterministic=deterministic)
            output = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), output)
        return self.final_norm(x_BTD), output
