"""ViT: an encoder of images, told their classes or, as a masked autoencoder, their hidden patches.

Dosovitskiy et al. 2021, "An image is worth 16x16 words"; Touvron et al. 2021, "Training data-efficient image
Transformers" (DeiT: `distillation_token`); He et al. 2022, "Masked autoencoders are scalable vision learners" (the head
`masked_pixels`); Zhai et al. 2022 (`pooling` attention).

Shape letters: B batch, P patches, K patches that are kept, T patches and what joins them, D model width, E width of the
decoder of pixels.
"""

import dataclasses
import functools
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from transformer import checks
from transformer.layers.execution import Execution, Stack, show
from transformer.layers.heads import BackboneOutput, ClassificationHead, ClassificationOutput
from transformer.layers.norm_first import NormFirstBlock
from transformer.layers.patches import LearnedTokens, joined
from transformer.layers.primitives import LayerNorm, Linear
from transformer.models.architecture import FixedLength
from transformer.models.counting import ImagePlaces, MaskedImagePlaces
from transformer.models.image_encoder import ImageBackbone, ImageEncoder, ImageEncoderConfig, ImageHead, of_image
from transformer.ops.attention import Mask
from transformer.parallel.rules import RESIDUAL, constrain


@dataclasses.dataclass(frozen=True)
class ViTConfig(ImageEncoderConfig):
    """A ViT; the defaults are ViT-B/16's (86,567,656 parameters with 1,000 classes)."""

    family: ClassVar[str] = "vit"
    heads: ClassVar[tuple[ImageHead, ...]] = ("image_classification", "masked_pixels", "none", "unpooled")
    pooled_heads: ClassVar[frozenset[str]] = frozenset({"none"})

    distillation_token: bool = False
    """Whether a second learned token is told a teacher's classes, by a head of its own; both heads' scores are then
    averaged (DeiT, section 4)."""
    decoder_width: int = 512
    """Width of the decoder of pixels (He et al., section 3)."""
    decoder_layers: int = 8
    """Its blocks; its feed-forward layers are four times as wide as it."""
    decoder_heads: int = 16
    """Its attention heads; they divide its width."""
    kept_patches: int = 49
    """Patches that a masked autoencoder reads of an image: a quarter of 196."""

    def __post_init__(self):
        super().__post_init__()
        checks.at_least(self, 1, "decoder_width", "decoder_layers", "decoder_heads", "kept_patches")
        if self.head == "masked_pixels":
            checks.divides(self, "decoder_heads", "decoder_width")
            checks.rule(self, "decoder_width", self.decoder_width % 4 == 0, "its positions need a multiple of 4")
            few = self.kept_patches < self.side**2
            checks.rule(self, "kept_patches", few, f"an image has {self.side**2} patches, and some must be hidden")
        both = self.pooling == "class_token" and self.class_token
        checks.rule(self, "distillation_token", both or not self.distillation_token, "it stands beside a class token")

    @property
    def extra_tokens(self) -> int:
        return super().extra_tokens + int(self.distillation_token)

    @property
    def fixed_length(self) -> int:
        patches = self.kept_patches if self.head == "masked_pixels" else self.side**2
        return self.extra_tokens + patches

    @property
    def fixed_lengths(self) -> tuple[FixedLength, ...]:
        if self.head != "masked_pixels":
            return super().fixed_lengths
        read = of_image(self.kept_patches, self.extra_tokens)
        told = of_image(self.side**2, int(self.class_token))
        return (
            FixedLength(self.fixed_length, f"{read}, that the encoder reads", ("kept_patches", "class_token")),
            FixedLength(
                int(self.class_token) + self.side**2,
                f"{told}, that the decoder tells",
                ("image_size", "patch_size", "class_token"),
            ),
        )

    @property
    def places(self) -> ImagePlaces:
        if self.head != "masked_pixels":
            return super().places
        return MaskedImagePlaces(self.side**2, self.fixed_length, decoded=int(self.class_token) + self.side**2)

    @property
    def stacks(self) -> dict[str, int]:
        return super().stacks | ({"decoder": self.decoder_layers} if self.head == "masked_pixels" else {})

    @property
    def depth(self) -> int:
        return self.num_layers

    def backbone(self, execution: Execution) -> "ViTBackbone":
        """Returns the model below its head."""
        return ViTBackbone(self, execution)

    def build(self, execution: Execution) -> nn.Module:
        """Returns the module: the model without its weights."""
        return MaskedAutoencoder(self, execution) if self.head == "masked_pixels" else ViT(self, execution)

    def example_inputs(self, batch: int = 1, length: int = 1) -> dict[str, Any]:
        inputs = super().example_inputs(batch, length)
        if self.head == "masked_pixels":
            inputs["kept"] = jnp.broadcast_to(jnp.arange(self.kept_patches)[None], (batch, self.kept_patches))
        return inputs


class ViTBackbone(ImageBackbone):
    """A ViT below its head; DeiT's second token stands between the class token and the patches."""

    config: Any

    def setup(self):
        super().setup()
        if self.config.distillation_token:
            self.distillation_token = LearnedTokens(1, self.config.width, jnp.float32, self.config.initializer)

    @nn.nowrap
    def placed_tokens(self) -> tuple[str, ...]:
        return (*super().placed_tokens(), *(("distillation_token",) if self.config.distillation_token else ()))


class ViT(ImageEncoder):
    """Images in; classes, or hidden states out."""

    config: Any

    def setup(self):
        super().setup()
        config, dtype = self.config, self.execution.compute_dtype
        if config.distillation_token and config.head == "image_classification":
            self.distillation_head = ClassificationHead(config.num_labels, dtype, kernel_init=config.initializer)

    def __call__(self, images: jax.Array, *, deterministic: bool = True) -> ClassificationOutput | BackboneOutput:
        """Returns what `ImageEncoder.__call__` does; of two heads, the mean of their scores."""
        config = self.config
        if not (config.distillation_token and config.head == "image_classification"):
            return super().__call__(images, deterministic=deterministic)
        hidden_BTD = self.backbone(images, deterministic=deterministic)
        show(self, "states", "last", hidden_BTD)
        of_class = self.head(hidden_BTD[:, 0], deterministic=deterministic)
        of_teacher = self.distillation_head(hidden_BTD[:, 1], deterministic=deterministic)
        return ClassificationOutput((of_class + of_teacher) / 2)


class PixelsOutput(struct.PyTreeNode):
    """What a masked autoencoder makes of an image."""

    pixels_BPC: jax.Array
    """float32 [B, P, patch_size * patch_size * channels]: the pixels of each patch, hidden or not."""


class MaskedAutoencoder(nn.Module):
    """Some patches of an image in; the pixels of all out. The decoder is small, and thrown away after pretraining."""

    config: ViTConfig
    execution: Execution

    def setup(self):
        config, dtype = self.config, self.execution.compute_dtype
        width, init = config.decoder_width, config.initializer
        sizes = dataclasses.replace(
            config.block, width=width, num_heads=config.decoder_heads, mlp_width=4 * width, layer_scale=None
        )
        self.backbone = config.backbone(self.execution)
        self.widen = Linear((width,), ("embed", "out"), dtype, kernel_init=init)
        self.mask_token = LearnedTokens(1, width, dtype, init)
        self.decoder = Stack(
            functools.partial(NormFirstBlock, sizes, self.execution), config.decoder_layers, self.execution
        )
        self.decoder_norm = LayerNorm(config.norm_epsilon, dtype)
        numbers = config.patch_size**2 * config.channels
        self.pixels = Linear((numbers,), ("embed", "pixels"), jnp.float32, kernel_init=init)

    def __call__(self, images: jax.Array, kept: jax.Array, *, deterministic: bool = True) -> PixelsOutput:
        """Returns the pixels of all patches.

        Args:
          images: float32 [B, height, width, channels], normalised.
          kept: int32 [B, K], the patches that the encoder reads, by their index, rising.
          deterministic: no dropout; otherwise the random stream "dropout" is needed.
        """
        config = self.config
        hidden_BTE = self.widen(self.backbone(images, kept, deterministic=deterministic))
        first, side = config.extra_tokens, images.shape[1] // config.patch_size
        patches = side * (images.shape[2] // config.patch_size)
        # Each place reads a kept patch or the mask token, which stands behind the kept ones.
        batch, count = kept.shape
        places_BP = jnp.full((batch, patches), count, jnp.int32)
        order_BK = jnp.broadcast_to(jnp.arange(count, dtype=jnp.int32)[None], kept.shape)
        places_BP = jax.vmap(lambda places, at, order: places.at[at].set(order))(places_BP, kept, order_BK)
        found_BKE = jnp.concatenate([hidden_BTE[:, first:], self.mask_token(batch)], axis=1)
        x_BPE = jnp.take_along_axis(found_BKE, places_BP[:, :, None], axis=1)
        x_BPE += jnp.asarray(grid_sinusoids(side, patches // side, config.decoder_width), x_BPE.dtype)[None]
        x_BTE = joined(hidden_BTE[:, : int(config.class_token)], x_BPE)
        x_BTE, _ = self.decoder(constrain(x_BTE, *RESIDUAL), None, Mask(), deterministic=deterministic)
        return PixelsOutput(self.pixels(self.decoder_norm(x_BTE[:, int(config.class_token) :])))


def grid_sinusoids(rows: int, columns: int, width: int) -> np.ndarray:
    """Returns float32 [rows * columns, width]: sines and cosines of a patch's column, then of its row (MAE's release).

    Args:
      rows: of the grid.
      columns: of the grid.
      width: a multiple of 4.
    """
    rates = 10000.0 ** (-np.arange(width // 4) / (width // 4))
    angles = [np.outer(np.arange(count), rates) for count in (rows, columns)]
    of_rows, of_columns = (np.concatenate([np.sin(angle), np.cos(angle)], axis=1) for angle in angles)
    grid = np.concatenate(
        [np.tile(of_columns[None], (rows, 1, 1)), np.tile(of_rows[:, None], (1, columns, 1))], axis=-1
    )
    return grid.reshape(rows * columns, width).astype(np.float32)
