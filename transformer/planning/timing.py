"""Timing: how long a step will take, from what it computes, reads and sends, and from a chip's published rates.

A roofline for each part of a step (Williams et al. 2009), times the share of the published rate that is attained:
products, attention's kernel, what is bound by memory. What devices send is timed as rings (Thakur et al. 2005), within
a host over NVLink, and between hosts over as many network adapters as the group has members in a host. Of it, what is
sent of parameters and gradients hides behind computation, as far as there is any, but for one layer's; activations
stand between one product and the next, and hide behind nothing.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping

from transformer.chips import CHIPS
from transformer.parallel.collectives import Collective
from transformer.parallel.mesh import MESH_AXES

PRODUCTS = 0.70
"""Share of the peak that large bfloat16 products attain in a training step."""
ATTENTION = 0.45
"""Share of the peak that attention's kernels attain, forwards and backwards together (Shah et al. 2024,
"FlashAttention-3", figures 5 and 6: FlashAttention-2 and cuDNN on an H100, heads of 128)."""
MEMORY = 0.80
"""Share of the memory's bandwidth that elementwise work attains."""
LINKS = 0.80
"""Share of a link's bandwidth that a ring attains."""
TF32 = 0.5
"""Rate of float32 products, rounded to TF32, as a part of bfloat16's (the same data sheets)."""
HOP, NETWORK_HOP, ICI_HOP = 3.4e-6, 14e-6, 1e-6
"""Seconds of a ring's step from one device to the next: in a host of GPUs and between hosts (NCCL 2.19, `tuning.cc`,
hwLat of its protocol Simple); along a side of a TPU slice (Austin et al. 2025, part 3)."""
_HIDES = frozenset({"data", "fsdp", "expert"})
_OF_PARAMETERS = frozenset({"all-gather", "reduce-scatter", "all-reduce"})


@dataclasses.dataclass(frozen=True)
class Rates:
    """What one device attains."""

    products: float
    """FLOP/s."""
    attention: float
    """FLOP/s."""
    memory: float
    """Bytes a second."""
    link: float
    """Bytes a second that it sends to devices of its host, or along a side of a slice."""
    network: float
    """Bytes a second that it sends to other hosts."""
    per_host: int | None
    """Devices of a host; None: all are joined by `link`."""
    hop: float
    """Seconds from one device to the next, whatever is sent."""
    network_hop: float
    """Seconds from one host to the next."""


@dataclasses.dataclass(frozen=True)
class StepTime:
    """Seconds of a step on the slowest device, by what they are spent on."""

    products: float
    attention: float
    memory: float
    """Elementwise work, norms, the loss's scores and the optimizer."""
    hidden: float
    """What is sent of parameters and gradients and can hide behind the three above."""
    exposed: float
    """What is sent and hides behind nothing."""

    @property
    def computing(self) -> float:
        return self.products + self.attention + self.memory

    @property
    def total(self) -> float:
        """The expected time."""
        return max(self.computing, self.hidden) + self.exposed

    @property
    def apart(self) -> float:
        """The time if nothing were sent while something is computed."""
        return self.computing + self.hidden + self.exposed


def rates_of(name: str, dtype: str, per_host: int | None) -> Rates:
    """Returns what a chip of the table attains.

    Args:
      name: a key of `CHIPS` whose rates are all published.
      dtype: of compute.
      per_host: devices of a host; None: none has a border.
    """
    chip = CHIPS[name]
    if chip.bandwidth is None or chip.link is None or chip.network is None:
        raise ValueError(f"{name}: not all of its rates are known")
    peak = chip.bf16 * (TF32 if dtype == "float32" else 1.0)
    return Rates(
        products=PRODUCTS * peak,
        attention=ATTENTION * peak,
        memory=MEMORY * chip.bandwidth,
        link=LINKS * chip.link,
        network=LINKS * chip.network,
        per_host=per_host,
        hop=ICI_HOP if per_host is None else HOP,
        network_hop=NETWORK_HOP,
    )


def peak_of(name: str) -> float | None:
    """Returns the peak by which utilisation is counted, dense bfloat16 FLOP/s; None where it is not published."""
    return CHIPS[name].bf16 if name in CHIPS else None


def step_time(
    flops: float,
    attention: float,
    traffic: float,
    sent: Iterable[Collective],
    sizes: Mapping[str, int],
    rates: Rates,
    layers: float,
) -> StepTime:
    """Returns the time of a step.

    Args:
      flops: that one device computes, attention's included.
      attention: attention's part of them.
      traffic: bytes that its memory reads and writes beside products.
      sent: the collectives of a step.
      sizes: mesh axis -> devices.
      rates: what a device attains.
      layers: of a device; of what hides, one layer's part has nothing to hide behind.
    """
    hidden = exposed = 0.0
    for collective in sent:
        seconds = collective.times * seconds_of(collective, sizes, rates)
        if hides(collective):
            hidden += seconds
        else:
            exposed += seconds
    edge = hidden / max(layers, 1.0)
    return StepTime(
        products=(flops - attention) / rates.products,
        attention=attention / rates.attention,
        memory=traffic / rates.memory,
        hidden=hidden - edge,
        exposed=exposed + edge,
    )


def hides(collective: Collective) -> bool:
    """Whether a collective moves parameters or gradients, for which no computation has to wait; of what goes along
    `expert` alone, tokens are most.
    """
    axes = frozenset(collective.axes)
    return collective.kind in _OF_PARAMETERS and axes <= _HIDES and axes != {"expert"}


def seconds_of(collective: Collective, sizes: Mapping[str, int], rates: Rates) -> float:
    """Returns the seconds of one execution of a collective."""
    n = collective.group
    if n == 1 or not collective.axes:
        return 0.0
    together = members(tuple(sizes.items()), collective.axes, rates.per_host)
    hosts = n / min(together, n)
    if collective.kind in ("all-to-all", "ragged-all-to-all") and hosts > 1:
        outside = collective.sent * (1 - together / n)
        return outside / rates.network + rates.network_hop
    if collective.kind == "collective-permute":
        border = together < math.prod(sizes[axis] for axis in collective.axes)
        return collective.sent / (rates.network if border else rates.link) + (
            rates.network_hop if border else rates.hop
        )
    bandwidth = rates.link if hosts <= 1 else min(rates.link, together * rates.network)
    around = (n - hosts) * rates.hop + (hosts if hosts > 1 else 0) * rates.network_hop
    return collective.sent / bandwidth + around * (2 if collective.kind == "all-reduce" else 1)


@functools.lru_cache(maxsize=4096)
def members(sizes: tuple[tuple[str, int], ...], axes: tuple[str, ...], per_host: int | None) -> int:
    """Returns how many devices of a group along some mesh axes stand in the host of the group's first.

    Devices are laid out in the order of `MESH_AXES`, the last one innermost, host by host.
    """
    by_axis = dict(sizes)
    if per_host is None:
        return math.prod(by_axis[axis] for axis in axes)
    places, stride = [0], 1
    for axis in reversed(MESH_AXES):
        if axis in axes:
            places = [place + stride * step for place in places for step in range(by_axis[axis])]
        stride *= by_axis[axis]
    return sum(place < per_host for place in places)
