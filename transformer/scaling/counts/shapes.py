"""Well-shaped sizes of a family: width, depth, heads and feed-forward width in the proportions of one of its models.

Over a wide range the loss depends on the number of parameters far more than on the shape (Kaplan et al. 2020, figure 5:
a few percent over an aspect ratio of 10 to 200), so that a study keeps the shape and varies the number.

Shape letters: D model width, L layers, H heads, K head width, F MLP width.
"""

import dataclasses
import math
from typing import Any

from transformer.errors import UserError
from transformer.models.albert import AlbertConfig
from transformer.models.architecture import Architecture
from transformer.models.encoder import EncoderConfig
from transformer.models.encoder_decoder import EncoderDecoderConfig
from transformer.models.gpt import GPTConfig
from transformer.models.gpt1 import GPT1Config
from transformer.models.llama import LlamaConfig
from transformer.models.t5 import T5Config
from transformer.models.transformer import TransformerConfig


@dataclasses.dataclass(frozen=True)
class Shaping:
    """What makes a size well-shaped."""

    aspect: float | None = None
    """Width a layer, D / L; None: the model's that the sizes are made from. (GPT-3: 64 to 128.)"""
    layers: int | None = None
    """L of every size, of the deeper side where there are two: sizes differ in width alone. None: by the aspect."""
    head_widths: tuple[int, ...] = (16, 64, 128)
    """K is the widest of these of which there are at least K / 8: 64 from a width of 512, 128 from 2048, as models of
    these widths have. So heads never narrow as models widen, and most studies have one K."""
    multiple: int | None = None
    """What divides the widths of model and feed-forward layers; None: K. (128 fills the matrix units of TPUs.)"""
    tensor: int = 1
    """Devices of the mesh's tensor axis: they divide heads, key-value heads and feed-forward width."""
    stretch: float = 2.0
    """How far a size may be from the aspect ratio, as a factor, to come nearer to a number of parameters."""
    tolerance: float = 0.05
    """How far a size may be from a number of parameters, as a share of it, and still be what was asked for."""

    def __post_init__(self) -> None:
        for field, least in (("layers", 1), ("multiple", 1), ("tensor", 1), ("stretch", 1), ("tolerance", 0)):
            value = getattr(self, field)
            if value is not None and value < least:
                raise UserError(f"shapes: {field} is {value}: it must be at least {least}")
        if self.aspect is not None and not self.aspect > 0:
            raise UserError(f"shapes: aspect is {self.aspect}: it must be above 0")
        if self.aspect is not None and self.layers is not None:
            raise UserError("shapes: give aspect, by which layers grow with the width, or layers, which do not")
        if not self.head_widths or min(self.head_widths) < 2 or any(width % 2 for width in self.head_widths):
            raise UserError(f"shapes: head_widths are {self.head_widths}: give even ones")

    def head_width(self, together: float) -> int:
        """Returns K of heads that are so wide together."""
        fitting = [head_width for head_width in self.head_widths if 8 * together >= head_width**2]
        return max(fitting, default=min(self.head_widths))

    def step(self, width: int) -> int:
        """Returns what divides the widths of a model about so wide."""
        return self.head_width(width) if self.multiple is None else self.multiple


def shaped(base: Architecture, width: int, shaping: Shaping = Shaping(), depth: int | None = None) -> Architecture:
    """Returns `base` at another width, all else in proportion; what is no size, such as words and context, stays.

    Args:
      base: of any family; its proportions are kept.
      width: D.
      shaping: what makes a size well-shaped.
      depth: L, of the deeper side where there are two; None: the shaping's, or what the aspect ratio gives.

    Raises:
      UserError: the multiple does not divide the width, or it is not so many heads.
    """
    step = shaping.step(width)
    if width < 1 or width % step:
        near = f"{width // step * step} or " if width > step else ""
        raise UserError(f"shapes: a width of {width} is no multiple of {step}: take {near}{(width // step + 1) * step}")
    depth = depth or shaping.layers or max(round(width / aspect(base, shaping)), 1)
    scale = _Scale(base, width, depth, shaping)
    match base:
        case GPTConfig():
            count = scale.whole_heads()
            wide = None if base.mlp_width is None else scale.mlp(base.mlp_width)
            layers = scale.layers(base.num_layers)
            # Dense and banded layers take turns.
            layers = layers if base.band is None else 2 * math.ceil(layers / 2)
            return dataclasses.replace(base, width=width, num_layers=layers, num_heads=count, mlp_width=wide)
        case GPT1Config():
            count = scale.whole_heads()
            return dataclasses.replace(base, width=width, num_layers=scale.layers(base.num_layers), num_heads=count)
        case LlamaConfig():
            group = base.num_heads // base.num_kv_heads
            count, head_width = scale.heads(base.num_heads * base.head_width, group)
            return dataclasses.replace(
                base,
                width=width,
                num_layers=scale.layers(base.num_layers),
                num_heads=count,
                num_kv_heads=count // group,
                head_width=head_width,
                mlp_width=scale.mlp(base.mlp_width),
            )
        case EncoderConfig():
            count = scale.whole_heads()
            layers, wide = scale.layers(base.num_layers), scale.mlp(base.mlp_width)
            sizes: dict[str, Any] = {"width": width, "num_layers": layers, "num_heads": count, "mlp_width": wide}
            if isinstance(base, AlbertConfig):
                sizes["embedding_width"] = min(base.embedding_width, width)
            return dataclasses.replace(base, **sizes)
        case T5Config():
            count, head_width = scale.heads(base.num_heads * base.head_width)
            return dataclasses.replace(
                base,
                width=width,
                num_encoder_layers=scale.layers(base.num_encoder_layers),
                num_decoder_layers=scale.layers(base.num_decoder_layers),
                num_heads=count,
                head_width=head_width,
                mlp_width=scale.mlp(base.mlp_width),
            )
        case TransformerConfig():
            return dataclasses.replace(
                base,
                width=width,
                num_encoder_layers=scale.layers(base.num_encoder_layers),
                num_decoder_layers=scale.layers(base.num_decoder_layers),
                num_encoder_heads=scale.whole_heads(),
                num_decoder_heads=scale.whole_heads(),
                encoder_mlp_width=scale.mlp(base.encoder_mlp_width),
                decoder_mlp_width=scale.mlp(base.decoder_mlp_width),
            )
    raise UserError(f"shapes: no sizes are known of the {base.family} family")


def aspect(base: Architecture, shaping: Shaping) -> float:
    """Returns the width a layer that sizes should have."""
    width, depth = proportions(base)
    return width / depth if shaping.aspect is None else shaping.aspect


def proportions(architecture: Architecture) -> tuple[int, int]:
    """Returns D and L, of the deeper side where there are two; raises UserError for a family without known sizes."""
    match architecture:
        case EncoderDecoderConfig():
            return architecture.width, max(architecture.num_encoder_layers, architecture.num_decoder_layers)
        case GPTConfig() | GPT1Config() | LlamaConfig() | EncoderConfig():
            return architecture.width, architecture.num_layers
    raise UserError(f"shapes: no sizes are known of the {architecture.family} family")


@dataclasses.dataclass(frozen=True)
class _Scale:
    """From the sizes of a base to those at another width and depth."""

    base: Architecture
    width: int
    depth: int
    shaping: Shaping

    def layers(self, base_layers: int) -> int:
        """Returns a side's layers."""
        return max(round(self.depth * base_layers / proportions(self.base)[1]), 1)

    def mlp(self, base_width: int) -> int:
        """Returns F."""
        step = math.lcm(self.shaping.step(self.width), self.shaping.tensor)
        return max(round(self.width * base_width / proportions(self.base)[0] / step), 1) * step

    def whole_heads(self) -> int:
        """Returns H of heads that are together as wide as the model."""
        count, head_width = self.heads(proportions(self.base)[0])
        if count * head_width != self.width:
            step = math.lcm(head_width * self.shaping.tensor, self.shaping.step(self.width))
            below = self.width // step * step
            raise UserError(
                f"shapes: a width of {self.width} is not heads of {head_width}, in a number that {self.shaping.tensor} "
                f"divides: take {f'{below} or ' if below else ''}{below + step}"
            )
        return count

    def heads(self, base_together: int, group: int = 1) -> tuple[int, int]:
        """Returns H and K: together about as much wider than the model as the base's are; `group` divides H."""
        together, step = self.width * base_together / proportions(self.base)[0], self.shaping.tensor * group
        head_width = self.shaping.head_width(together)
        return max(round(together / head_width / step), 1) * step, head_width
