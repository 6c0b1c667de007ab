"""DINOv2: a ViT whose sublayers' outputs are scaled, and whose features serve without fine-tuning.

Oquab et al. 2024, "DINOv2: learning robust visual features without supervision"; with `registers`, Darcet et al. 2024,
"Vision Transformers need registers".

Shape letters: B batch, P patches, T patches and what joins them, D model width.
"""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer import checks
from transformer.layers.execution import Execution
from transformer.layers.patches import LearnedTokens
from transformer.models.image_encoder import ImageBackbone, ImageEncoder, ImageEncoderConfig, ImageHead, Pooling


@dataclasses.dataclass(frozen=True)
class Dinov2Config(ImageEncoderConfig):
    """A DINOv2; the defaults are ViT-B/14's, whose positions are learnt for images of 518 pixels."""

    family: ClassVar[str] = "dinov2"
    heads: ClassVar[tuple[ImageHead, ...]] = ("image_classification", "none")
    poolings: ClassVar[tuple[Pooling, ...]] = ("class_and_mean", "class_token", "mean")

    image_size: int = 518
    """Pixels of a side of the images that positions are learnt for; others' are resized."""
    patch_size: int = 14
    """Pixels of a side of a patch; it divides the image's."""
    norm_epsilon: float = 1e-6
    """Added to the variance in LayerNorm."""
    layer_scale: float | None = 1.0
    """What the factors of sublayers' outputs start at."""
    pooling: Pooling = "class_and_mean"
    """What a classifier reads of an image: its class token and the mean of its patches (section 7.1)."""
    mask_token: bool = True
    """Whether there is a vector that stands in the place of hidden patches, in training by masked images."""

    def __post_init__(self):
        super().__post_init__()
        checks.rule(self, "class_token", self.class_token, "this family has one")
        checks.rule(self, "layer_scale", self.layer_scale is not None, "this family has one")

    @property
    def antialiased(self) -> bool:
        """Whether positions that are resized to fewer patches are averages of the old ones: with registers."""
        return self.registers > 0

    def backbone(self, execution: Execution) -> "Dinov2Backbone":
        """Returns the model below its head."""
        return Dinov2Backbone(self, execution)

    def build(self, execution: Execution) -> "Dinov2":
        """Returns the module: the model without its weights."""
        return Dinov2(self, execution)


class Dinov2Backbone(ImageBackbone):
    """A DINOv2 below its head; the vector that stands for hidden patches is kept for its file, as nothing hides any."""

    config: Any

    def setup(self):
        super().setup()
        if self.config.mask_token:
            self.mask_token = LearnedTokens(1, self.config.width, jnp.float32, nn.initializers.zeros_init())

    def extended(self, patches_BPD: jax.Array) -> jax.Array:
        if self.config.mask_token:
            self.mask_token(1)
        return patches_BPD


class Dinov2(ImageEncoder):
    """Images in; hidden states with a vector an image, or classes out."""

    def whole_image(self, hidden_BTD: jax.Array) -> jax.Array:
        return hidden_BTD[:, 0]
