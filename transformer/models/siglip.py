"""SigLIP (Zhai et al. 2023, "Sigmoid loss for language image pre-training").

Shape letters: as in `two_towers`.
"""

import dataclasses
import math
from typing import Any, ClassVar, Literal

import jax

from transformer.layers.attention_pool import AttentionPool
from transformer.layers.execution import Execution
from transformer.layers.primitives import Linear
from transformer.models.two_towers import TwoTowers, TwoTowersConfig, VisionTowerConfig


@dataclasses.dataclass(frozen=True)
class SiglipVisionConfig(VisionTowerConfig):
    """The tower of images: a ViT without a class token."""

    family: ClassVar[str] = "siglip_vision"


@dataclasses.dataclass(frozen=True)
class SiglipConfig(TwoTowersConfig):
    """A SigLIP, whose vectors are as wide as its tower of images; the defaults are B/16's (203,155,970 parameters)."""

    family: ClassVar[str] = "siglip"
    causal_text: ClassVar[bool] = False
    similarity_bias: ClassVar[bool] = True
    reads_padding: ClassVar[bool] = True

    image_size: int = 224
    patch_size: int = 16
    channels: int = 3
    width: int = 768
    num_layers: int = 12
    num_heads: int = 12
    mlp_width: int = 3072
    activation: str = "gelu_tanh"
    vocab_size: int = 32000
    context_length: int = 64
    text_width: int = 768
    text_layers: int = 12
    text_heads: int = 12
    text_mlp_width: int = 3072
    text_activation: str = "gelu_tanh"
    norm_epsilon: float = 1e-6
    attention_dropout: float = 0.0
    initial_scale: float = math.log(10)
    head: Literal["contrastive"] = "contrastive"

    @property
    def vision(self) -> SiglipVisionConfig:
        return SiglipVisionConfig(**self.vision_fields, class_token=False, pooling="attention")

    def build(self, execution: Execution) -> "Siglip":
        """Returns the module: the model without its weights."""
        return Siglip(self, execution)


class Siglip(TwoTowers):
    """What a learned query reads of the image, and the text's last place, projected."""

    config: Any

    def setup(self):
        super().setup()
        config, dtype = self.config, self.execution.compute_dtype
        self.pooler = AttentionPool(config.vision.block, self.execution)
        self.text_projection = Linear((config.width,), ("embed", "out"), dtype, kernel_init=config.initializer)

    def image_vectors(self, images: jax.Array, deterministic: bool) -> jax.Array:
        hidden_BTD = self.backbone.vision(images, deterministic=deterministic)
        return self.pooler(hidden_BTD, deterministic=deterministic)

    def text_vectors(self, tokens: jax.Array, segment_ids: jax.Array | None, deterministic: bool) -> jax.Array:
        del segment_ids  # padding is read like any token, and most texts end in it
        return self.text_projection(self.backbone.text(tokens, None, deterministic=deterministic)[:, -1])
