"""Two towers: an image and a text, each a vector, and how well they fit: what CLIP and SigLIP are.

Shape letters: B batch of images, N batch of texts, T tokens, D a tower's width, P width of the vectors.
"""

import abc
import dataclasses
import functools
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from transformer import checks
from transformer.layers.execution import Execution, Stack
from transformer.layers.norm_first import NormFirstBlock, NormFirstSizes
from transformer.layers.primitives import Embedding, Initializer, LayerNorm, parameter
from transformer.models.architecture import Architecture, FixedLength
from transformer.models.counting import Places, TwoTowersPlaces
from transformer.models.image_encoder import ImageBackbone, ImageEncoder, ImageEncoderConfig, ImageHead
from transformer.ops.attention import Mask
from transformer.ops.elementwise import ACTIVATIONS
from transformer.parallel.rules import RESIDUAL, constrain


@dataclasses.dataclass(frozen=True)
class VisionTowerConfig(ImageEncoderConfig):
    """The tower of images, as an encoder of its own."""

    heads: ClassVar[tuple[ImageHead, ...]] = ("unpooled",)

    @property
    def initializer(self) -> Initializer:
        return nn.initializers.normal(0.02)

    def build(self, execution: Execution) -> nn.Module:
        """Returns the module: the model without its weights."""
        return ImageEncoder(self, execution)


_VISION = (
    "image_size", "patch_size", "channels", "width", "num_layers", "num_heads", "mlp_width", "activation",
    "norm_epsilon", "attention_dropout",
)  # fmt: skip
"""Fields of the tower of images, which is called likewise as an encoder of its own."""


@dataclasses.dataclass(frozen=True)
class TwoTowersConfig(Architecture):
    """What both families have; fields without `text_` are of the tower of images."""

    kind: ClassVar[str] = "two_towers"
    pre_norm: ClassVar[bool] = True
    tied_norms: ClassVar[tuple[str, ...]] = ()
    num_labels: ClassVar[int] = 2
    labels: ClassVar[tuple[str, ...]] = ()
    problem_type: ClassVar[None] = None
    causal_text: ClassVar[bool]
    """Whether a token of the text sees only those before it."""
    similarity_bias: ClassVar[bool]
    """Whether a learned number is added to all similarities."""
    reads_padding: ClassVar[bool] = False
    """Whether padding is read like any token: all texts are then padded to `context_length`."""

    image_size: int
    """Pixels of a side of the images that positions are learnt for."""
    patch_size: int
    """Pixels of a side of a patch; it divides the image's."""
    channels: int
    """Numbers of a pixel: 3 of colour, 1 of grey."""
    width: int
    """Width of the tower of images."""
    num_layers: int
    """Its blocks."""
    num_heads: int
    """Its attention heads; they divide its width."""
    mlp_width: int
    """Width of its feed-forward layers."""
    activation: str
    """Activation of its feed-forward layers: gelu, gelu_tanh, quick_gelu, relu or silu."""
    vocab_size: int
    """Kinds of tokens of the text."""
    context_length: int
    """Learned positions of the text: the most tokens that it has."""
    text_width: int
    """Width of the tower of text."""
    text_layers: int
    """Its blocks."""
    text_heads: int
    """Its attention heads; they divide its width."""
    text_mlp_width: int
    """Width of its feed-forward layers."""
    text_activation: str
    """Activation of its feed-forward layers."""
    norm_epsilon: float
    """Added to the variance in LayerNorm, in both towers."""
    attention_dropout: float
    """Probability of dropping attention probabilities, in both towers."""
    initial_scale: float
    """Logarithm of what similarities are multiplied with in the beginning."""
    head: Literal["contrastive"]
    """What the vectors are for."""

    def __post_init__(self):
        checks.at_least(self, 1, "image_size", "patch_size", "channels", "width", "num_layers", "num_heads")
        checks.at_least(self, 1, "mlp_width", "vocab_size", "context_length", "text_width", "text_layers")
        checks.at_least(self, 1, "text_heads", "text_mlp_width")
        checks.divides(self, "patch_size", "image_size")
        checks.divides(self, "num_heads", "width")
        checks.divides(self, "text_heads", "text_width")
        checks.within(self, "[0, 1)", "attention_dropout")
        checks.above(self, 0, "norm_epsilon")
        checks.choice(self, "activation", ACTIVATIONS)
        checks.choice(self, "text_activation", ACTIVATIONS)
        checks.choice(self, "head", ("contrastive",))

    @property
    @abc.abstractmethod
    def vision(self) -> VisionTowerConfig:
        """The tower of images, as an encoder of its own."""

    @property
    def vision_fields(self) -> dict[str, Any]:
        """The tower of images' fields, by name."""
        return {"head": "unpooled", **{name: getattr(self, name) for name in _VISION}}

    @property
    def text_block(self) -> NormFirstSizes:
        """What each block of the tower of text is."""
        return NormFirstSizes(
            self.text_width,
            self.text_heads,
            self.text_mlp_width,
            self.text_activation,
            self.norm_epsilon,
            attention_dropout=self.attention_dropout,
            init=self.initializer,
        )

    @property
    def initializer(self) -> Initializer:
        """How every matrix and table starts. (Transformers' has a factor a kind of matrix, of about this size.)"""
        return nn.initializers.normal(0.02)

    @property
    def stacks(self) -> dict[str, int]:
        return {"vision": self.num_layers, "text": self.text_layers}

    @property
    def longest_input(self) -> int | None:
        return self.context_length

    @property
    def input_size(self) -> tuple[int, int, int]:
        return self.vision.input_size

    @property
    def fixed_lengths(self) -> tuple[FixedLength, ...]:
        return tuple(each._replace(fields=("image_size", "patch_size")) for each in self.vision.fixed_lengths)

    @property
    def places(self) -> Places:
        return TwoTowersPlaces(self.vision.places, self.causal_text)

    def example_inputs(self, batch: int = 1, length: int = 1) -> dict[str, Any]:
        """Returns inputs of the model, all zeros."""
        tokens = jnp.zeros((batch, length), jnp.int32)
        return {"images": jnp.zeros((batch, *self.input_size)), "tokens": tokens, "segment_ids": tokens}


class TowersOutput(struct.PyTreeNode):
    """A vector for each image and for each text; float32, of length 1."""

    images_BP: jax.Array | None
    texts_NP: jax.Array | None
    scale: jax.Array
    """float32: what similarities are multiplied with."""
    bias: jax.Array | None = None
    """float32: what is added to them then."""

    @property
    def logits(self) -> jax.Array:
        """float32 [B, N]: how well each image fits each text."""
        return self.similarities(self.images_BP, self.texts_NP)

    def similarities(self, images_BP: Any, texts_NP: Any) -> jax.Array:
        """Returns float32 [B, N] of other vectors, as `logits` is of these."""
        scores_BN = jnp.einsum("BP,NP->BN", images_BP, texts_NP, precision="highest") * self.scale
        return scores_BN if self.bias is None else scores_BN + self.bias


class TextTower(nn.Module):
    """Tokens with learned positions, blocks and a last norm."""

    config: TwoTowersConfig
    execution: Execution

    def setup(self):
        config, dtype = self.config, self.execution.compute_dtype
        init = config.initializer
        self.token_embedding = Embedding(config.vocab_size, config.text_width, ("vocab", "embed"), jnp.float32, init)
        self.position_embedding = Embedding(
            config.context_length, config.text_width, ("positions", "embed"), jnp.float32, init
        )
        block = functools.partial(NormFirstBlock, config.text_block, self.execution)
        self.stack = Stack(block, config.text_layers, self.execution)
        self.final_norm = LayerNorm(config.norm_epsilon, dtype)

    def __call__(self, tokens_NT: jax.Array, segment_ids_NT: jax.Array | None, *, deterministic: bool) -> jax.Array:
        """Returns hidden states [N, T, D]; `segment_ids_NT` is 0 at what no token sees, None: all are seen."""
        config, length = self.config, tokens_NT.shape[1]
        if length > config.context_length:
            raise ValueError(f"{length} tokens for a context of {config.context_length}")
        # In float32, as the gradient of positions that all rows share is a sum over the batch.
        x_NTD = self.token_embedding(tokens_NT) + self.position_embedding.embedding[None, :length]
        x_NTD = constrain(x_NTD.astype(self.execution.compute_dtype), *RESIDUAL)
        mask = Mask.self_attention(segment_ids_NT, causal=config.causal_text)
        x_NTD, _ = self.stack(x_NTD, None, mask, deterministic=deterministic)
        return self.final_norm(x_NTD)


class TowersBackbone(nn.Module):
    """Both towers, which share no weight."""

    config: TwoTowersConfig
    execution: Execution

    def setup(self):
        self.vision = ImageBackbone(self.config.vision, self.execution)
        self.text = TextTower(self.config, self.execution)


class Similarity(nn.Module):
    """The learned numbers between cosines and scores."""

    initial_scale: float
    use_bias: bool

    @nn.compact
    def __call__(self, images_BP: jax.Array | None, texts_NP: jax.Array | None) -> TowersOutput:
        """Returns the vectors, made as long as 1, with these numbers."""
        scale = parameter(self, "scale", nn.initializers.constant(self.initial_scale), (), ())
        bias = parameter(self, "bias", nn.initializers.constant(-10.0), (), ()) if self.use_bias else None
        return TowersOutput(_of_length_1(images_BP), _of_length_1(texts_NP), jnp.exp(scale), bias)


class TwoTowers(nn.Module, abc.ABC):
    """Images and texts in; a vector each out. A family says how each tower becomes a vector."""

    config: Any
    execution: Execution

    def setup(self):
        config = self.config
        self.backbone = TowersBackbone(config, self.execution)
        self.similarity = Similarity(config.initial_scale, config.similarity_bias)

    def __call__(
        self,
        images: jax.Array | None = None,
        tokens: jax.Array | None = None,
        segment_ids: jax.Array | None = None,
        *,
        deterministic: bool = True,
    ) -> TowersOutput:
        """Returns the vectors of images and texts, and what makes scores of them.

        Args:
          images: float32 [B, height, width, channels], normalised; of another size than `image_size`, positions are
            resized. None: texts alone.
          tokens: int32 [N, T], each text from its first place on. None: images alone.
          segment_ids: int32 [N, T]: 1 for a token, 0 for padding. None: no padding.
          deterministic: no dropout; otherwise the random stream "dropout" is needed.
        """
        images_BP = texts_NP = None
        if images is not None:
            images_BP = self.image_vectors(images, deterministic)
        if tokens is not None:
            texts_NP = self.text_vectors(tokens, segment_ids, deterministic)
        return self.similarity(images_BP, texts_NP)

    @abc.abstractmethod
    def image_vectors(self, images: jax.Array, deterministic: bool) -> jax.Array:
        """Returns [B, P], of any length."""

    @abc.abstractmethod
    def text_vectors(self, tokens: jax.Array, segment_ids: jax.Array | None, deterministic: bool) -> jax.Array:
        """Returns [N, P], of any length."""


def _of_length_1(x: jax.Array | None) -> jax.Array | None:
    if x is None:
        return None
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.square(x).sum(axis=-1, keepdims=True))
