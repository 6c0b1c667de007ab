"""Chips: what their makers publish, a row a chip, for whoever counts utilisation, energy, or the time of a plan.

Sources. GPUs: NVIDIA's data sheets of the L4, L40S, A10, T4, V100 and A100, the H100, the H200 and the HGX B200 (tensor
cores without sparsity, memory, NVLink, thermal design power); those of the systems DGX A100, H100, H200 and B200 (one
network adapter a GPU, of 200 Gb/s, from the H100 on of 400). TPUs: Google's documentation of Cloud TPU (FLOP/s,
memory); Austin et al. 2025, "How to Scale Your Model", part 2 (links, and the network of the data centre); the power of
TPU v2 and v3 as Jouppi et al. 2021, table 1, has it, and of v4 the highest that Jouppi et al. 2023, table 4, measured.
A figure that is not published, or that nobody needs here, is None.
"""

import dataclasses
import platform
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Chip:
    """What is published of a chip: rates that it can have, not those that a step attains."""

    kinds: tuple[str, ...]
    """What JAX's `device_kind` of such a chip begins with."""
    bf16: float
    """Dense bfloat16 products, FLOP/s (float16 where it has no bfloat16)."""
    fp8: float | None = None
    """Dense products of 8-bit floats, FLOP/s."""
    bandwidth: float | None = None
    """Bytes a second of its memory."""
    link: float | None = None
    """Bytes a second that it sends to neighbours: by NVLink; along one side of a TPU slice, both ways round a ring."""
    network: float | None = None
    """Bytes a second that it sends to other hosts, or to other slices."""
    watts: float | None = None
    """Thermal design power, W; of the SXM board where there are two."""


CHIPS: dict[str, Chip] = {
    "a100": Chip(("NVIDIA A100",), 312e12, None, 2.03904e12, 300e9, 25e9, 400.0),
    "h100": Chip(("NVIDIA H100",), 989e12, 1979e12, 3.35232e12, 450e9, 50e9, 700.0),
    "h200": Chip(("NVIDIA H200",), 989e12, 1979e12, 4.8e12, 450e9, 50e9, 700.0),
    "b200": Chip(("NVIDIA B200",), 2250e12, 4500e12, 7.67232e12, 900e9, 50e9, 1000.0),
    "l4": Chip(("NVIDIA L4",), 121e12, watts=72.0),
    "l40s": Chip(("NVIDIA L40S",), 362e12, watts=350.0),
    "a10g": Chip(("NVIDIA A10G",), 70e12, watts=300.0),
    "v100": Chip(("Tesla V100",), 125e12, watts=300.0),
    "t4": Chip(("Tesla T4",), 65e12, watts=70.0),
    "v2": Chip(("TPU v2",), 22.5e12, watts=280.0),
    "v3": Chip(("TPU v3",), 61.5e12, watts=450.0),
    "v4": Chip(("TPU v4",), 275e12, watts=192.0),
    "v5e": Chip(("TPU v5 lite", "TPU v5e"), 197e12, None, 819e9, 90e9, 3.125e9),
    "v5p": Chip(("TPU v5", "TPU v5p"), 459e12, None, 2.765e12, 180e9, 6.25e9),
    "v6e": Chip(("TPU v6 lite", "TPU v6e"), 918e12, None, 1.638e12, 180e9, 12.5e9),
    "tpu7x": Chip(("TPU7x",), 2307e12),
}
"""Short name -> chip."""


def chip_of(device_kind: str) -> Chip | None:
    """Returns the chip that JAX calls so; None for one that is not known."""
    name = chip_name(device_kind)
    return None if name is None else CHIPS[name]


def chip_name(device_kind: str) -> str | None:
    """Returns the key of `CHIPS` of what JAX calls so; None: not known. Of several beginnings the longest counts."""
    fitting = [(len(kind), name) for name, chip in CHIPS.items() for kind in chip.kinds if device_kind.startswith(kind)]
    return max(fitting)[1] if fitting else None


def device_name(device_kind: str, cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Returns what a measurement is of: JAX's name of a device; of a CPU, the processor's, by which ratios differ.

    Args:
      device_kind: JAX's name.
      cpuinfo: what Linux says of its processors. The name may not tell generations apart, as on virtual machines, so
        the numbers of family and model stand behind it.
    """
    if device_kind != "cpu":
        return device_kind
    try:
        first = cpuinfo.read_text().partition("\n\n")[0]
    except OSError:  # another system
        return platform.processor() or platform.machine()
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first.splitlines())}
    if "model name" not in fields:  # on ARM
        return platform.machine()
    return f"{fields['model name']} (family {fields['cpu family']}, model {fields['model']})"
