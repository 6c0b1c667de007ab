"""An architecture made so small that it runs in seconds, its structure kept: what a check of meshes computes with.

Everything that makes a family's code take another path stays: groups of key-value heads, gates, windows, experts and
their groups, tied embeddings. Only sizes change, to ones that small meshes divide.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any, TypeVar

from transformer.errors import UserError
from transformer.models.architecture import Architecture
from transformer.models.resizing import scaled

A = TypeVar("A", bound=Architecture)

LAYERS, HEADS, HEAD_WIDTHS, EXPERTS = 4, 8, (8, 16, 4, 32, 64), 8
PATCH, SIDE, BINS, PLACES = 2, 4, 16, 64
"""Pixels of a side of a patch, patches of a side of an image; bins and places of a spectrogram."""
WIDTHS = 16
"""What divides the width, so that meshes do."""


def shrunk(
    base: A, *, vocab_size: int, length: int, old_length: int, end_id: int | None = None, classes: int | None = None
) -> A:
    """Returns a model with at most 4 layers and about 8 heads, and with few words, patches and frames.

    Args:
      base: of any family.
      vocab_size: words, at most.
      length: tokens that it is to read.
      old_length: tokens that `base` reads: windows shrink in the same proportion.
      end_id: the token that ends a text, for a model that reads texts there.
      classes: of what it is to tell; None: as many as before.

    Raises:
      UserError: heads of no width that is tried make a whole number.
    """
    model = _narrowed(base)

    def shorter(tokens: int | None) -> int | None:
        return None if tokens is None else max(tokens * length // max(old_length, length), 1)

    def narrower(to: int) -> Callable[[int | None], int | None]:
        """In proportion to the width, a multiple of `to`."""
        return lambda size: None if size is None else max(round(size * model.width / base.width / to), 1) * to

    rules: dict[str, Callable[[Any], Any]] = {
        "vocab_size": lambda words: None if words is None else min(words, vocab_size),
        "context_length": lambda _: length,
        "window": shorter,
        "band": shorter,
        "embedding_width": lambda width: min(width, model.width // 2),
        "boundary_width": lambda width: min(width, model.width // 2),
        "query_rank": narrower(8),
        "latent_width": narrower(8),
        "rotary_width": narrower(2),
        "value_width": narrower(2),
        "first_dense": lambda layers: min(layers, model.depth // 2),
        "end_id": lambda _: end_id,
        "decoder_start_id": lambda token: min(token, vocab_size - 1),
        "num_labels": lambda labels: labels if classes is None else classes,
        "patch_size": lambda _: PATCH,
        "image_size": lambda _: PATCH * SIDE,
        "kept_patches": lambda kept: max(kept * SIDE**2 // getattr(base, "side") ** 2, 1),  # noqa: B009 - an image's
        "decoder_layers": lambda layers: min(layers, LAYERS),
        "decoder_width": narrower(WIDTHS),
        "decoder_heads": lambda heads: math.gcd(heads, SIDE),
        "bins": lambda bins: min(bins, BINS),
        "encoder_places": lambda places: min(places, PLACES),
        "experts": _fewer,
    }
    fields = {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}
    return dataclasses.replace(model, **{name: rules[name](value) for name, value in fields.items() if name in rules})


def _narrowed(base: A) -> A:
    """Returns the model with fewer layers and heads, all else in proportion."""
    fewest = base.fewest_layers
    layers = min(base.depth, fewest * math.ceil(LAYERS / fewest))
    old_heads = next(
        getattr(base, name) for name in ("num_heads", "num_encoder_heads") if getattr(base, name, None) is not None
    )
    group = old_heads // (getattr(base, "num_kv_heads", None) or old_heads)
    heads = min(old_heads, max(2 * group, HEADS // group * group) if group < old_heads else HEADS)
    wide = base.width / (old_heads * (getattr(base, "head_width", None) or base.width // old_heads))
    # Of two towers, the second one's width must come out whole, too: fewer heads may make it.
    fewer = [3 * heads // 4] if hasattr(base, "text_width") else []
    for count, head_width in itertools.product([heads, *fewer], HEAD_WIDTHS):
        width = round(count * head_width * wide)
        if width >= base.width or width % WIDTHS:
            continue
        try:
            return scaled(base, width, layers, head_width=head_width)
        except UserError:
            continue
    return scaled(base, base.width, layers)


def _fewer(experts: Any) -> Any:
    """Returns a mixture of experts with as few as its choice among them and its groups allow; None: there is none."""
    if experts is None:
        return None
    each_group = max(2, -(-experts.experts_per_token // experts.groups_per_token))
    return dataclasses.replace(experts, num_experts=min(experts.num_experts, max(EXPERTS, experts.groups * each_group)))
