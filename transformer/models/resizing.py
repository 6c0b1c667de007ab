"""An architecture at another width and depth, all that grows with them in proportion: `scaled`.

Either exactly, or refused: what muP compares. Or rounded to well-shaped sizes: what a study trains. Over a wide range
the loss depends on the number of parameters far more than on the shape (Kaplan et al. 2020, figure 5: a few percent
over an aspect ratio of 10 to 200), so that a study keeps the shape and varies the number.

Which fields of a config are sizes follows from their names, which all families share.

Shape letters: D model width, L layers, H heads, G key-value heads, K head width, F MLP width.
"""

import dataclasses
import math
from typing import Any, TypeVar

from transformer import checks
from transformer.errors import UserError
from transformer.models.architecture import Architecture

A = TypeVar("A", bound=Architecture)

_LAYERS = ("num_layers", "num_encoder_layers", "num_decoder_layers", "text_layers")
_HEADS = ("num_heads", "num_encoder_heads", "num_decoder_heads")
_WIDTHS = ("mlp_width", "encoder_mlp_width", "decoder_mlp_width", "text_mlp_width", "projection_width")


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
        checks.at_least(self, 1, "layers", "multiple", "tensor", "stretch")
        checks.at_least(self, 0, "tolerance")
        checks.above(self, 0, "aspect")
        one_rule = self.aspect is None or self.layers is None
        checks.require(self, one_rule, "give `aspect`, by which layers grow with the width, or `layers`, which do not")
        even = bool(self.head_widths) and all(width >= 2 and width % 2 == 0 for width in self.head_widths)
        checks.require(self, even, f"`head_widths` are {self.head_widths}: give even ones")

    def width_a_layer(self, base: Architecture) -> float:
        """Returns D / L that sizes of `base` should have."""
        return base.width / base.depth if self.aspect is None else self.aspect

    def head_width(self, together: float) -> int:
        """Returns K of heads that are so wide together."""
        fitting = [head_width for head_width in self.head_widths if 8 * together >= head_width**2]
        return max(fitting, default=min(self.head_widths))

    def step(self, width: int) -> int:
        """Returns what divides the widths of a model about so wide."""
        return self.head_width(width) if self.multiple is None else self.multiple


def scaled(
    base: A, width: int, layers: int | None = None, *, head_width: int | None = None, shaping: Shaping | None = None
) -> A:
    """Returns `base` at another width, all else in proportion; what is no size, such as words and context, stays.

    Args:
      base: of any family; its proportions are kept.
      width: D.
      layers: L, of the deeper side where there are two (the other follows). None: the base's; with a shaping, the
        shaping's or what its aspect ratio gives.
      head_width: K; None: the base's. A shaping has its own.
      shaping: what makes a size well-shaped: sizes are rounded to it. None: no size but the other side's layers and F
        is rounded.

    Raises:
      UserError: there is no such architecture: the heads would be no whole number, or the width is not the shaping's.
    """
    if shaping is None:
        rule = _Exact(base, width, base.depth if layers is None else layers, head_width)
    else:
        step = shaping.step(width)
        if width < 1 or width % step:
            near = f"{width // step * step} or " if width > step else ""
            more = f"take {near}{(width // step + 1) * step}"
            raise UserError(f"shapes: a width of {width} is no multiple of {step}: {more}")
        depth = layers or shaping.layers or max(round(width / shaping.width_a_layer(base)), 1)
        rule = _Rounded(base, width, depth, shaping)
    old = _fields(base)
    new: dict[str, Any] = {"width": width}
    new |= {field: rule.layers(old[field]) for field in _LAYERS if field in old}
    new |= {field: rule.mlp_width(old[field]) for field in _WIDTHS if old.get(field) is not None}
    for field in _HEADS:
        if field in old:
            new |= rule.heads(field, old)
    if "text_width" in old:
        new |= rule.text(old)
    if base.routing is not None:
        new["experts"] = dataclasses.replace(base.routing, mlp_width=rule.mlp_width(base.routing.mlp_width))
    if shaping is not None and "embedding_width" in old:
        new["embedding_width"] = min(old["embedding_width"], width)
    return dataclasses.replace(base, **new)


def head_width(architecture: Architecture) -> int:
    """Returns K, the encoder's where the sides differ."""
    sizes = _fields(architecture)
    return sizes.get("head_width") or architecture.width // next(sizes[field] for field in _HEADS if field in sizes)


def shallowest(architecture: A) -> A:
    """Returns the architecture with as few layers as it can have."""
    layers = {field: architecture.fewest_layers for field in _LAYERS if field in _fields(architecture)}
    return dataclasses.replace(architecture, **layers)


def _fields(architecture: Architecture) -> dict[str, Any]:
    return {field.name: getattr(architecture, field.name) for field in dataclasses.fields(architecture)}


@dataclasses.dataclass(frozen=True)
class _Exact:
    """Sizes in proportion to the width, or none."""

    base: Architecture
    width: int
    depth: int
    wanted_head_width: int | None

    def layers(self, old: int) -> int:
        return max(round(old * self.depth / self.base.depth), 1)

    def mlp_width(self, old: int) -> int:
        return max(round(old * self.width / self.base.width), 1)

    def heads(self, field: str, old: dict[str, Any]) -> dict[str, int]:
        own = old.get("head_width", self.base.width // old[field])  # a field where it does not follow from the width
        head_width = own if self.wanted_head_width is None else self.wanted_head_width
        together, what = old[field] * own * self.width, f"{field} of width {head_width}"
        new = {field: self._whole(together, self.base.width * head_width, what)}
        if "head_width" in old:
            new["head_width"] = head_width
        if old.get("num_kv_heads", 1) > 1:  # a single one stays a single one
            new["num_kv_heads"] = self._whole(old["num_kv_heads"] * new[field], old[field], "num_kv_heads")
        return new

    def text(self, old: dict[str, Any]) -> dict[str, int]:
        """Returns the sizes of a second tower, in the first one's proportion."""
        text_width = self._whole(old["text_width"] * self.width, self.base.width, "text_width")
        head_width = self.wanted_head_width or old["text_width"] // old["text_heads"]
        return {"text_width": text_width, "text_heads": self._whole(text_width, head_width, "text_heads")}

    def _whole(self, dividend: int, divisor: int, what: str) -> int:
        if dividend % divisor or dividend < divisor:
            raise UserError(
                f"this model at a width of {self.width} would have {dividend / divisor:.3g} {what}: choose another "
                "width, or another width of its heads"
            )
        return dividend // divisor


@dataclasses.dataclass(frozen=True)
class _Rounded:
    """Sizes next to the proportions, as a shaping wants them."""

    base: Architecture
    width: int
    depth: int
    shaping: Shaping

    def layers(self, old: int) -> int:
        turns = len(self.base.attention_windows)  # dense and banded layers take turns
        return turns * math.ceil(max(round(self.depth * old / self.base.depth), 1) / turns)

    def mlp_width(self, old: int) -> int:
        step = math.lcm(self.shaping.step(self.width), self.shaping.tensor)
        return max(round(self.width * old / self.base.width / step), 1) * step

    def heads(self, field: str, old: dict[str, Any]) -> dict[str, int]:
        """Together about as much wider than the model as the base's are; as wide where K is no field."""
        free = "head_width" in old
        group = old[field] // old.get("num_kv_heads", old[field])
        together = self.width * (old[field] * old["head_width"] if free else self.base.width) / self.base.width
        head_width, step = self.shaping.head_width(together), self.shaping.tensor * group
        count = max(round(together / head_width / step), 1) * step
        if not free and count * head_width != self.width:
            step = math.lcm(head_width * self.shaping.tensor, self.shaping.step(self.width))
            below = self.width // step * step
            raise UserError(
                f"shapes: a width of {self.width} is not heads of {head_width}, in a number that {self.shaping.tensor} "
                f"divides: take {f'{below} or ' if below else ''}{below + step}"
            )
        new = {field: count}
        if free:
            new["head_width"] = head_width
        if "num_kv_heads" in old:
            new["num_kv_heads"] = count // group
        return new

    def text(self, old: dict[str, Any]) -> dict[str, int]:
        """Returns the sizes of a second tower, next to the first one's proportion."""
        wanted = old["text_width"] * self.width / self.base.width
        head_width = self.shaping.head_width(wanted)
        step = math.lcm(head_width * self.shaping.tensor, self.shaping.step(self.width))
        text_width = max(round(wanted / step), 1) * step
        return {"text_width": text_width, "text_heads": text_width // head_width}
