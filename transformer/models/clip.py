"""CLIP (Radford et al. 2021, "Learning transferable visual models from natural language supervision").

Shape letters: as in `two_towers`.
"""

import dataclasses
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from transformer import checks
from transformer.layers.execution import Execution
from transformer.layers.primitives import Linear
from transformer.models.two_towers import TwoTowers, TwoTowersConfig, VisionTowerConfig


@dataclasses.dataclass(frozen=True)
class ClipVisionConfig(VisionTowerConfig):
    """The tower of images: a ViT whose patches have no bias, and whose first block's input is normed."""

    family: ClassVar[str] = "clip_vision"
    patch_bias: ClassVar[bool] = False
    embedding_norm: ClassVar[bool] = True


@dataclasses.dataclass(frozen=True)
class ClipConfig(TwoTowersConfig):
    """A CLIP; the defaults are ViT-B/32's (151,277,313 parameters)."""

    family: ClassVar[str] = "clip"
    causal_text: ClassVar[bool] = True
    similarity_bias: ClassVar[bool] = False

    image_size: int = 224
    patch_size: int = 32
    channels: int = 3
    width: int = 768
    num_layers: int = 12
    num_heads: int = 12
    mlp_width: int = 3072
    activation: str = "quick_gelu"
    vocab_size: int = 49408
    context_length: int = 77
    text_width: int = 512
    text_layers: int = 12
    text_heads: int = 8
    text_mlp_width: int = 2048
    text_activation: str = "quick_gelu"
    projection_width: int = 512
    """Width of the vectors of images and texts."""
    end_id: int | None = 49407
    """The token at whose first place the text's vector is read; None: at the highest id's, as older files have it."""
    norm_epsilon: float = 1e-5
    attention_dropout: float = 0.0
    initial_scale: float = 2.6592
    head: Literal["contrastive"] = "contrastive"

    def __post_init__(self):
        super().__post_init__()
        checks.at_least(self, 1, "projection_width")
        checks.at_least(self, 0, "end_id")
        known = self.end_id is None or self.end_id < self.vocab_size
        checks.rule(self, "end_id", known, f"`vocab_size` is {self.vocab_size}")

    @property
    def vision(self) -> ClipVisionConfig:
        return ClipVisionConfig(**self.vision_fields)

    def build(self, execution: Execution) -> "Clip":
        """Returns the module: the model without its weights."""
        return Clip(self, execution)


class Clip(TwoTowers):
    """The class token and the end of the text, each projected."""

    config: Any

    def setup(self):
        super().setup()
        config, dtype = self.config, self.execution.compute_dtype
        outputs, names, init = (config.projection_width,), ("embed", "out"), config.initializer
        self.image_projection = Linear(outputs, names, dtype, use_bias=False, kernel_init=init)
        self.text_projection = Linear(outputs, names, dtype, use_bias=False, kernel_init=init)

    def image_vectors(self, images: jax.Array, deterministic: bool) -> jax.Array:
        return self.image_projection(self.backbone.vision(images, deterministic=deterministic)[:, 0])

    def text_vectors(self, tokens: jax.Array, segment_ids: jax.Array | None, deterministic: bool) -> jax.Array:
        hidden_NTD = self.backbone.text(tokens, segment_ids, deterministic=deterministic)
        end_id = self.config.end_id
        ends_N = jnp.argmax(tokens if end_id is None else tokens == end_id, axis=-1)
        return self.text_projection(jnp.take_along_axis(hidden_NTD, ends_N[:, None, None], axis=1)[:, 0])
