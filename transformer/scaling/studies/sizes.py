"""Sizes that a study trains: the well-shaped architectures next to given numbers of parameters, or around a budget.

Shape letters: D model width, L layers, N parameters, C training FLOPs.
"""

import bisect
import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from transformer.errors import UserError
from transformer.models.architecture import Architecture
from transformer.models.conventions import flops_per_token, kinds_of
from transformer.models.counting import kind_of
from transformer.models.resizing import Shaping, scaled, shallowest
from transformer.params import is_stacked

_WIDEST = 2**15
"""Largest width that is considered: wider than any model so far."""

TOKENS_PER_PARAM = 20.0
"""D* / N* of Hoffmann et al. 2022, table 3, for N with embeddings: what to expect before anything is measured."""


class Sized(NamedTuple):
    """An architecture of about the size that was asked for."""

    architecture: Architecture
    params: int
    """N, by the count that was asked for."""
    note: str | None = None
    """A note that no shape came nearer, or None."""


def sized(
    base: Architecture,
    params: float,
    size: str = "total",
    shaping: Shaping = Shaping(),
    above: int = 0,
) -> Sized:
    """Returns `base` at another size: the nearest to its proportions that has N within the tolerance.

    Where none has, the nearest N of those that are no further from the proportions than the stretch, and a note.

    Args:
      base: an architecture of any family, whose proportions are kept.
      params: N.
      size: how N is counted, one of `conventions.SIZES`.
      shaping: rules for a well-shaped size.
      above: N must be more than this.

    Raises:
      UserError: no shape is so large; or an unknown count.
    """
    if not params >= 1:
        raise UserError(f"sizes: a model of {params:g} parameters: give at least 1")
    widths, wanted = _widths(base, shaping), max(params, above + 1.0)
    middle = widths[_place(base, widths, wanted, lambda width: _params(scaled(base, width, shaping=shaping), size))]
    # N goes as D^2 L, and so as D^3 at one aspect ratio: wider or narrower than this, no depth gives N within stretch.
    reach = (2 * shaping.stretch) ** (1 / 3)
    near = [width for width in widths if 1 / reach <= width / middle <= reach]
    near.sort(key=lambda width: abs(math.log(width / middle)))
    best: Sized | None = None
    for width in near:
        for architecture in _depths(base, width, wanted, size, shaping):
            count = _params(architecture, size)
            if count <= above:
                continue
            if abs(count - params) <= shaping.tolerance * params:
                return Sized(architecture, count)
            if best is None or abs(math.log(count / params)) < abs(math.log(best.params / params)):
                best = Sized(architecture, count)
    if best is None:
        raise UserError(f"sizes: no {base.family} of {params:,.0f} {size} parameters and more than {above:,}")
    note = f"{best.params / params - 1:+.0%} of the {params:,.0f} asked for: no well-shaped {base.family} is nearer"
    return best._replace(note=note)


def ladder(
    base: Architecture, params: Sequence[float], size: str = "total", shaping: Shaping = Shaping()
) -> list[Sized]:
    """Returns a size for each N, in order and each larger than the last; takes the arguments of `sized`."""
    rungs: list[Sized] = []
    for target in sorted(params):
        rungs.append(sized(base, target, size, shaping, above=rungs[-1].params if rungs else 0))
    return rungs


def around(
    base: Architecture,
    flops: float,
    count: int,
    *,
    length: int,
    target_length: int = 0,
    convention: str = "exact",
    size: str = "total",
    span: float = 4.0,
    tokens_per_param: float = TOKENS_PER_PARAM,
    shaping: Shaping = Shaping(),
) -> list[Sized]:
    """Returns sizes, evenly spaced in log N, around the size that is expected to be best for a budget.

    That size is the N whose training on `tokens_per_param` N tokens costs C; the outermost are N / `span` and N `span`.

    Args:
      base: an architecture of any family, whose proportions are kept.
      flops: C.
      count: number of sizes.
      length: tokens of an example; of the encoder's sequence, where there are two.
      target_length: tokens of the decoder's sequence, in an encoder-decoder.
      convention: how C is counted, one of `conventions.CONVENTIONS`.
      size: how N is counted, one of `conventions.SIZES`.
      span: factor from the middle size to the outermost ones.
      tokens_per_param: D* / N* that is expected.
      shaping: rules for a well-shaped size.

    Raises:
      UserError: the budget is too small for the smallest shape, or too large; an unknown name.
    """
    if count < 1 or not span >= 1 or not tokens_per_param > 0:
        raise UserError(f"sizes: {count} sizes over a span of {span:g} at {tokens_per_param:g} tokens a parameter")

    def cost(width: int) -> float:
        architecture = scaled(base, width, shaping=shaping)
        tokens = tokens_per_param * _params(architecture, size)
        return tokens * flops_per_token(convention, architecture, length, target_length)

    widths = _widths(base, shaping)
    place = _place(base, widths, flops, cost)
    place += cost(widths[place]) < flops  # the first that costs as much
    if place in (0, len(widths)):
        least, most = cost(widths[0]), cost(widths[-1])
        raise UserError(
            f"sizes: a budget of {flops:.3g} FLOPs is best spent on no {base.family} of these shapes, which want "
            f"{least:.3g} to {most:.3g} at {tokens_per_param:g} tokens a parameter"
        )
    low, high = widths[place - 1], widths[place]
    share = math.log(flops / cost(low)) / math.log(cost(high) / cost(low))
    small, large = (_params(scaled(base, width, shaping=shaping), size) for width in (low, high))
    best = small * (large / small) ** share
    steps = [0.0] if count == 1 else [2 * step / (count - 1) - 1 for step in range(count)]
    return ladder(base, [best * span**step for step in steps], size, shaping)


@functools.lru_cache(maxsize=64)
def _widths(base: Architecture, shaping: Shaping) -> tuple[int, ...]:
    """Returns all well-shaped widths."""

    def fits(width: int) -> bool:
        try:
            scaled(base, width, shaping=shaping)
        except UserError:
            return False
        return True

    widths = tuple(filter(fits, range(2, _WIDEST + 1, 2)))
    if not widths:
        raise UserError(f"sizes: no width of {base.family} fits {shaping}")
    return widths


def _place(base: Architecture, widths: Sequence[int], value: float, key: Callable[[int], float]) -> int:
    """Returns the place of a width whose key is next to the value, by secants: the key is nearly a power of the width.

    A bisection would need three times as many keys, and each traces a model.
    """
    keys: dict[int, float] = {}
    place = min(bisect.bisect_left(widths, base.width), len(widths) - 1)
    power, last = 3.0, place
    while place not in keys:
        keys[place] = key(widths[place])
        if place != last:
            power = math.log(keys[place] / keys[last]) / math.log(widths[place] / widths[last])
        wanted = widths[place] * (value / keys[place]) ** (1 / max(power, 1.0))
        last, place = place, min(bisect.bisect_left(widths, wanted), len(widths) - 1)
    return min(keys, key=lambda place: abs(math.log(keys[place] / value)))


def _depths(base: Architecture, width: int, params: float, size: str, shaping: Shaping) -> list[Architecture]:
    """Returns the architectures of a width, within stretch, that are next to N: the last below and the first above.

    Where the number of layers is given, returns the one that has it.
    """
    if shaping.layers is not None:
        return [scaled(base, width, shaping=shaping)]
    wanted = shaping.width_a_layer(base)
    depths = range(1, math.floor(width * shaping.stretch / wanted) + 1)
    within = [depth for depth in depths if depth >= width / wanted / shaping.stretch] or [1]

    def count(depth: int) -> int:
        return _params(scaled(base, width, depth, shaping=shaping), size)

    if count(within[0]) == count(within[-1]):  # one depth, or layers that share their weights
        return [scaled(base, width, shaping=shaping)]
    above = bisect.bisect_left(within, params, key=count)
    return [scaled(base, width, depth, shaping=shaping) for depth in within[max(above - 1, 0) : above + 1]]


def _params(architecture: Architecture, size: str) -> int:
    """Returns `conventions.num_params` from a shallow model's tree, traced once a width, since all layers are alike."""
    shallow, kinds, total = shallowest(architecture), kinds_of(size), 0
    for parameter in shallow.counts.parameters:
        if kind_of(parameter) in kinds:
            holders = shallow.stacks.keys() & {*parameter.modules} if is_stacked(parameter.names) else ()
            times = [architecture.stacks[module] // shallow.stacks[module] for module in holders]
            total += parameter.size * math.prod(times)
    return total
