"""An encoder of images: patches, blocks and a last norm, under a head.

ViT and DINOv2 are this model with other tokens, blocks and heads; their configs extend this one.

Shape letters: B batch, P patches, T patches and what joins them, D model width, C classes.
"""

import abc
import dataclasses
import functools
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer import checks
from transformer.layers.attention_pool import AttentionPool
from transformer.layers.execution import Execution, Stack, show
from transformer.layers.heads import BackboneOutput, ClassificationHead, ClassificationOutput, Pooler
from transformer.layers.norm_first import NormFirstBlock, NormFirstSizes
from transformer.layers.patches import LearnedTokens, PatchEmbedding, PatchPositions, joined
from transformer.layers.primitives import Dropout, Initializer, LayerNorm
from transformer.models.architecture import Architecture, FixedLength
from transformer.models.counting import ImagePlaces
from transformer.ops.attention import Mask
from transformer.ops.elementwise import ACTIVATIONS
from transformer.parallel.rules import RESIDUAL, constrain

ImageHead = Literal["image_classification", "masked_pixels", "none", "unpooled"]
"""Classes of images; hidden patches' pixels (masked autoencoding); none: hidden states and, where the family has one, a
vector an image; unpooled: hidden states alone, where a family has such a vector."""

Pooling = Literal["class_token", "mean", "class_and_mean", "attention"]
"""What a classifier reads of an image: its class token, the mean of its patches, both one behind the other, or what a
learned query reads of all (`layers.attention_pool`)."""


@dataclasses.dataclass(frozen=True)
class ImageEncoderConfig(Architecture):
    """What every encoder of images has; the defaults are ViT-B/16's."""

    kind: ClassVar[Literal["image_encoder"]] = "image_encoder"
    pre_norm: ClassVar[bool] = True
    tied_norms: ClassVar[tuple[str, ...]] = ()
    vocab_size: ClassVar[None] = None
    heads: ClassVar[tuple[ImageHead, ...]]
    """The heads that the family has."""
    pooled_heads: ClassVar[frozenset[str]] = frozenset()
    """The heads that come with a pooler."""
    poolings: ClassVar[tuple[Pooling, ...]] = ("class_token", "mean", "attention")
    patch_bias: ClassVar[bool] = True
    """Whether the projection of patches has a bias."""
    embedding_norm: ClassVar[bool] = False
    """Whether the first block's input is normed (CLIP)."""

    image_size: int = 224
    """Pixels of a side of the images that positions are learnt for."""
    patch_size: int = 16
    """Pixels of a side of a patch; it divides the image's."""
    channels: int = 3
    """Numbers of a pixel: 3 of colour, 1 of grey."""
    width: int = 768
    """D: model width."""
    num_layers: int = 12
    """Blocks."""
    num_heads: int = 12
    """Attention heads; they divide the width."""
    mlp_width: int = 3072
    """Width of the feed-forward layers."""
    activation: str = "gelu"
    """Activation of the feed-forward layers: gelu, gelu_tanh, quick_gelu, relu or silu."""
    norm_epsilon: float = 1e-12
    """Added to the variance in LayerNorm."""
    dropout: float = 0.0
    """Probability of dropping embeddings, sublayer outputs and the feed-forward layers' hidden values."""
    attention_dropout: float = 0.0
    """Probability of dropping attention probabilities."""
    attention_bias: bool = True
    """Whether the projections to queries, keys and values have biases."""
    class_token: bool = True
    """Whether a learned token stands before the patches, for the whole image."""
    registers: int = 0
    """Further learned tokens, which nothing reads in the end (Darcet et al. 2024)."""
    layer_scale: float | None = None
    """What the factors of sublayers' outputs start at; None: there are none."""
    pooling: Pooling = "class_token"
    """What a classifier reads of an image."""
    head: ImageHead = "image_classification"
    """What the hidden states are for."""
    num_labels: int = 1000
    """Classes of the classification head."""

    def __post_init__(self):
        checks.at_least(self, 1, "image_size", "patch_size", "channels", "width", "num_layers", "num_heads")
        checks.at_least(self, 1, "mlp_width")
        self.check_labels()
        checks.at_least(self, 0, "registers")
        checks.divides(self, "patch_size", "image_size")
        checks.divides(self, "num_heads", "width")
        checks.within(self, "[0, 1)", "dropout", "attention_dropout")
        checks.above(self, 0, "norm_epsilon")
        checks.choice(self, "activation", ACTIVATIONS)
        checks.choice(self, "head", self.heads)
        checks.choice(self, "pooling", self.poolings)
        there = self.class_token or not (self.pooling.startswith("class") or self.head in self.pooled_heads)
        checks.rule(self, "class_token", there, f"`pooling` {self.pooling} and `head` {self.head} read it")

    @property
    def antialiased(self) -> bool:
        """Whether positions that are resized to fewer patches are averages of the old ones."""
        return False

    @property
    def extra_tokens(self) -> int:
        """Learned tokens before the patches."""
        return int(self.class_token) + self.registers

    @property
    def side(self) -> int:
        """Patches of a side of an image."""
        return self.image_size // self.patch_size

    @property
    def input_size(self) -> tuple[int, int, int]:
        return self.image_size, self.image_size, self.channels

    @property
    def fixed_length(self) -> int:
        return self.extra_tokens + self.side**2

    @property
    def fixed_lengths(self) -> tuple[FixedLength, ...]:
        fields = ("image_size", "patch_size", "class_token", "registers")
        return (FixedLength(self.fixed_length, of_image(self.side**2, self.extra_tokens), fields),)

    @property
    def places(self) -> ImagePlaces:
        return ImagePlaces(patches=self.side**2, tokens=self.fixed_length)

    @property
    def stacks(self) -> dict[str, int]:
        return {"stack": self.num_layers}

    @property
    def initializer(self) -> Initializer:
        """How every matrix and table starts (Transformers', after the JAX release's Glorot of about that size)."""
        return nn.initializers.truncated_normal(0.02)

    @property
    def block(self) -> NormFirstSizes:
        """What each block is."""
        biases = {"query", "key", "value", "out"} if self.attention_bias else {"out"}
        return NormFirstSizes(
            self.width,
            self.num_heads,
            self.mlp_width,
            self.activation,
            self.norm_epsilon,
            frozenset(biases),
            layer_scale=self.layer_scale,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            mlp_dropout=self.dropout,
            init=self.initializer,
        )

    def backbone(self, execution: Execution) -> "ImageBackbone":
        """Returns the model below its head."""
        return ImageBackbone(self, execution)

    @abc.abstractmethod
    def build(self, execution: Execution) -> nn.Module: ...

    def example_inputs(self, batch: int = 1, length: int = 1) -> dict[str, Any]:
        """Returns inputs of the model, all zeros; the length of an image is fixed."""
        del length
        return {"images": jnp.zeros((batch, *self.input_size))}


def of_image(patches: int, learned: int) -> str:
    """Returns what the places of an image are, in words."""
    tokens = f" and {learned} learned token{'s'[: learned > 1]}" if learned else ""
    return f"an image, {patches} patches{tokens}"


class ImageBackbone(nn.Module):
    """Patches with their positions, learned tokens, blocks and a last norm: images in, hidden states out."""

    config: ImageEncoderConfig
    execution: Execution

    def setup(self):
        config, dtype = self.config, self.execution.compute_dtype
        width, init = config.width, config.initializer
        self.patch_embedding = PatchEmbedding(width, config.patch_size, dtype, config.patch_bias, init)
        if config.class_token:
            self.class_token = LearnedTokens(1, width, jnp.float32, init)
        if config.registers:
            self.register_tokens = LearnedTokens(config.registers, width, jnp.float32, init)
        before = len(self.placed_tokens())
        self.position_embedding = PatchPositions(config.side, before, width, config.antialiased, init)
        if config.embedding_norm:
            self.embedding_norm = LayerNorm(config.norm_epsilon, dtype)
        self.embedding_dropout = Dropout(config.dropout)
        block = functools.partial(NormFirstBlock, config.block, self.execution)
        self.stack = Stack(block, config.num_layers, self.execution)
        self.final_norm = LayerNorm(config.norm_epsilon, dtype)

    def __call__(self, images: jax.Array, kept_BK: jax.Array | None = None, *, deterministic: bool) -> jax.Array:
        """Returns [B, T, D]: learned tokens, then patches.

        Args:
          images: float32 [B, height, width, channels], normalised.
          kept_BK: int32, the patches that are read, by their index; None: all.
          deterministic: no dropout.
        """
        x_BTD = self.embed(images, kept_BK)
        if self.config.embedding_norm:
            x_BTD = self.embedding_norm(x_BTD)
        x_BTD = constrain(self.embedding_dropout(x_BTD, deterministic=deterministic), *RESIDUAL)
        x_BTD, _ = self.stack(x_BTD, None, Mask(), deterministic=deterministic)
        return self.final_norm(x_BTD)

    def embed(self, images: jax.Array, kept_BK: jax.Array | None) -> jax.Array:
        """Returns the first block's input, [B, T, D]."""
        config, dtype = self.config, self.execution.compute_dtype
        batch, height, width, channels = images.shape
        patch = config.patch_size
        if height % patch or width % patch or channels != config.channels:
            raise ValueError(
                f"images of {height} x {width} x {channels}, for patches of {patch} x {patch} x {config.channels}"
            )
        positions_TD = self.position_embedding(height // patch, width // patch)
        before = positions_TD.shape[0] - (height // patch) * (width // patch)
        patches_BPD = self.extended(self.patch_embedding(images)).astype(jnp.float32) + positions_TD[None, before:]
        if kept_BK is not None:
            patches_BPD = jnp.take_along_axis(patches_BPD, kept_BK[:, :, None], axis=1)
        parts = []
        if placed := [getattr(self, name)(batch) for name in self.placed_tokens()]:
            parts.append(jnp.concatenate(placed, axis=1) + positions_TD[None, :before])
        if config.registers:
            parts.append(self.register_tokens(batch))
        return joined(*parts, patches_BPD).astype(dtype)

    @nn.nowrap
    def placed_tokens(self) -> tuple[str, ...]:
        """Returns the names of the learned tokens that have a position: registers have none."""
        return ("class_token",) if self.config.class_token else ()

    def extended(self, patches_BPD: jax.Array) -> jax.Array:
        """Returns the vectors of patches, [B, P, D]: a family may replace some."""
        return patches_BPD


class ImageEncoder(nn.Module):
    """Images in; classes, or hidden states out."""

    config: ImageEncoderConfig
    execution: Execution

    def setup(self):
        config, dtype = self.config, self.execution.compute_dtype
        self.backbone = config.backbone(self.execution)
        if config.head in config.pooled_heads:
            self.pooler: Any = Pooler(dtype, kernel_init=config.initializer)
        elif config.pooling == "attention" and config.head == "image_classification":
            self.pooler = AttentionPool(config.block, self.execution)
        if config.head == "image_classification":
            self.head = ClassificationHead(config.num_labels, dtype, kernel_init=config.initializer)

    def __call__(self, images: jax.Array, *, deterministic: bool = True) -> ClassificationOutput | BackboneOutput:
        """Returns scores of classes, [B, C]; or hidden states.

        Args:
          images: float32 [B, height, width, channels], normalised; of another size than `image_size`, positions are
            resized.
          deterministic: no dropout; otherwise the random stream "dropout" is needed.
        """
        hidden_BTD = self.backbone(images, deterministic=deterministic)
        show(self, "states", "last", hidden_BTD)
        if self.config.head != "image_classification":
            return BackboneOutput(hidden_BTD, self.whole_image(hidden_BTD))
        return ClassificationOutput(self.head(self.pooled(hidden_BTD, deterministic), deterministic=deterministic))

    def whole_image(self, hidden_BTD: jax.Array) -> jax.Array | None:
        """Returns a vector an image, [B, D], that comes with hidden states; None: the head has none."""
        return self.pooler(hidden_BTD) if self.config.head in self.config.pooled_heads else None

    def pooled(self, hidden_BTD: jax.Array, deterministic: bool) -> jax.Array:
        """Returns what the classifier reads of each image, [B, D] or [B, 2 D]."""
        if self.config.pooling == "attention":
            return self.pooler(hidden_BTD, deterministic=deterministic)
        return read_off(hidden_BTD, self.config.pooling, self.config.extra_tokens)


def read_off(hidden_BTD: jax.Array, pooling: Pooling, extra_tokens: int) -> jax.Array:
    """Returns what a classifier without weights of its own reads of each image, [B, D] or [B, 2 D].

    Args:
      hidden_BTD: learned tokens, then patches.
      pooling: what is read; not "attention".
      extra_tokens: learned tokens before the patches.
    """
    if pooling == "class_token":
        return hidden_BTD[:, 0]
    mean_BD = hidden_BTD[:, extra_tokens:].astype(jnp.float32).mean(axis=1).astype(hidden_BTD.dtype)
    return mean_BD if pooling == "mean" else jnp.concatenate([hidden_BTD[:, 0], mean_BD], axis=-1)
