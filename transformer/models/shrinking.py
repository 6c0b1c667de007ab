"""An architecture made so small that it runs in seconds, its structure kept: what a check of meshes computes with.

Everything that makes a family's code take another path stays: groups of key-value heads, gates, windows, experts and
their groups, tied embeddings. Only sizes change, to ones that small meshes divide.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, TypeVar

from transformer.errors import UserError
from transformer.models.architecture import Architecture
from transformer.models.resizing import scaled

A = TypeVar("A", bound=Architecture)

LAYERS, HEADS, HEAD_WIDTHS, EXPERTS = 4, 8, (8, 16, 4, 32, 64), 8


def shrunk(base: A, *, vocab_size: int, length: int, old_length: int) -> A:
    """Returns a model with at most 4 layers and about 8 heads, and with few words; no size grows.

    Args:
      base: of any family.
      vocab_size: words, at most.
      length: tokens that it is to read.
      old_length: tokens that `base` reads: windows shrink in the same proportion.

    Raises:
      UserError: heads of no width that is tried make a whole number.
    """
    model = _narrowed(base)

    def shorter(tokens: int | None) -> int | None:
        return None if tokens is None else max(tokens * length // max(old_length, length), 1)

    rules: dict[str, Callable[[Any], Any]] = {
        "vocab_size": lambda words: None if words is None else min(words, vocab_size),
        "context_length": lambda _: length,
        "window": shorter,
        "band": shorter,
        "embedding_width": lambda width: min(width, model.width // 2),
        "boundary_width": lambda width: min(width, model.width // 2),
    }
    return _with(model, rules, model.width / base.width)


def _narrowed(base: A) -> A:
    """Returns the model with fewer layers and heads, all else in proportion."""
    turns = len(base.attention_windows)
    layers = min(base.depth, turns * math.ceil(LAYERS / turns))
    old_heads = next(
        getattr(base, name) for name in ("num_heads", "num_encoder_heads") if getattr(base, name, None) is not None
    )
    group = old_heads // (getattr(base, "num_kv_heads", None) or old_heads)
    heads = min(old_heads, max(2 * group, HEADS // group * group) if group < old_heads else HEADS)
    wide = base.width / (old_heads * (getattr(base, "head_width", None) or base.width // old_heads))
    for head_width in HEAD_WIDTHS:
        width = round(heads * head_width * wide)
        if width >= base.width:
            continue
        try:
            return scaled(base, width, layers, head_width=head_width)
        except UserError:
            continue
    return scaled(base, base.width, layers)


def _with(model: A, rules: dict[str, Callable[[Any], Any]], ratio: float) -> A:
    """Returns the model with fields that follow the rules; its experts become fewer, and narrower by the ratio."""
    fields = {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}
    new = {name: rules[name](value) for name, value in fields.items() if name in rules}
    new |= {name: _fewer(value, ratio) for name, value in fields.items() if hasattr(value, "num_experts")}
    return dataclasses.replace(model, **new)


def _fewer(experts: Any, ratio: float) -> Any:
    """Returns a mixture of experts with as few as its choice among them and its groups allow."""
    each_group = max(2, -(-experts.experts_per_token // experts.groups_per_token))
    number = min(experts.num_experts, max(EXPERTS, experts.groups * each_group))
    width = min(experts.mlp_width, max(round(experts.mlp_width * ratio / 8), 1) * 8)
    return dataclasses.replace(experts, num_experts=number, mlp_width=width)
