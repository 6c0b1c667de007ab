"""Chips that a step can be planned for, as rows of facts, and how many of them make a topology.

What their makers publish is in `transformer.chips`; here is what a compiler needs besides. GPUs: what XLA's compiler
must know of one, from the descriptions that openxla/xla keeps under `xla/backends/gpu/target_config/specs/` (h100_sxm,
h200, a100_sxm_80, b200). They say what fits (memory, shared memory, registers), what is generated (compute capability),
and what the cost model believes (bandwidth, clock, rates). TPUs: the compiler knows them by name; memory and slices are
those of Google's documentation of Cloud TPU. This machine's processor can be planned for, too: what is said of its
devices can be measured.
"""

import dataclasses
import math
import os

from transformer.chips import CHIPS as PUBLISHED
from transformer.chips import chip_name
from transformer.errors import UserError

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Topology:
    """A number of chips and how they are joined."""

    platform: str
    """As `jax.experimental.topologies` calls it: cuda or tpu; or cpu, this machine's own."""
    chip: str
    """Key of `CHIPS`."""
    shape: str
    """GPUs: slices x hosts x GPUs of a host. TPUs: generation and chips along each side. CPUs: devices."""
    devices: int
    memory: int
    """Bytes of a device."""
    per_host: int | None = None
    """Devices of a host, where links between hosts are slower; None: all are joined alike."""
    target_config: str | None = None
    """`GpuTargetConfigProto` in text form."""

    @property
    def sides(self) -> tuple[int, ...] | None:
        """Chips along each side of a TPU slice; None of other chips, on which every mesh can be laid out."""
        return tuple(map(int, self.shape.partition(":")[2].split("x"))) if self.platform == "tpu" else None


@dataclasses.dataclass(frozen=True)
class Gpu:
    """A GPU of NVIDIA's, in hosts whose GPUs NVLink joins."""

    name: str
    capability: tuple[int, int]
    """Compute capability."""
    accelerated: bool
    """Whether code may use what just this generation has (sm_90a): wgmma and TMA on Hopper need it."""
    cores: int
    """Streaming multiprocessors."""
    fpus_per_core: int
    clock_ghz: float
    memory: int
    """Bytes, as the driver reports them: a little less than what is sold."""
    l2: int
    """Bytes."""
    shared_memory: tuple[int, int]
    """Bytes of a core, and the most that a block may ask for."""
    dense_bf16_per_clock: int | None = None
    """Multiply-adds of a tensor core in a clock, four tensor cores a core; None: XLA's description has none."""
    matrix_clock_ghz: float = 0.0
    per_host: int = 8

    def topology(self, chip: str, count: str) -> Topology:
        """Returns so many of them: any number within a host, or whole hosts. `chip` is their key of `CHIPS`."""
        number = int(count) if count.isdigit() else 0
        if number < 1 or (number > self.per_host and number % self.per_host):
            raise UserError(
                f"--chips: {count} GPUs: give a number up to {self.per_host}, or a multiple of it (hosts have "
                f"{self.per_host})"
            )
        hosts = max(number // self.per_host, 1)
        shape = f"1x{hosts}x{number // hosts}"
        config = self._target_config(PUBLISHED[chip].bandwidth)
        return Topology("cuda", chip, shape, number, self.memory, number // hosts, config)

    def _target_config(self, bandwidth: float | None) -> str:
        major, minor = self.capability
        of_core, of_block = self.shared_memory
        return f"""\
gpu_device_info {{
{_EVERY_GPU}\
  shared_memory_per_core: {of_core}
  shared_memory_per_block_optin: {of_block}
  core_count: {self.cores}
  fpus_per_core: {self.fpus_per_core}
  clock_rate_ghz: {self.clock_ghz}
  device_memory_size: {self.memory}
  memory_bandwidth: {int(bandwidth or 0)}
  l2_cache_size: {self.l2}
  cuda_compute_capability {{
    major: {major} minor: {minor} feature_extension: {"ACCELERATED_FEATURES" if self.accelerated else "NONE"}
  }}
{self._matrix_units()}\
  name: "{self.name}"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{self.name}"
"""

    def _matrix_units(self) -> str:
        if self.dense_bf16_per_clock is None:
            return ""
        rates = "".join(
            f"    rate_infos {{ key: {dtype} value {{ clock_rate_ghz: {self.matrix_clock_ghz} units_per_core: 4 "
            f"ops_per_clock: {int(self.dense_bf16_per_clock * share)} }} }}\n"
            for dtype, share in _RATES.items()
        )
        return f"  matrix_unit_description {{\n{rates}  }}\n"


@dataclasses.dataclass(frozen=True)
class Tpu:
    """A TPU, in slices that are grids or tori of chips."""

    memory: int
    """Bytes."""
    slices: tuple[str, ...]
    """Chips along each side of the slices that are rented out, one a number of chips."""

    def topology(self, chip: str, count: str) -> Topology:
        """Returns a slice of so many chips, or of these sides (4x4x8). `chip` is their key of `CHIPS`."""
        sizes = {str(_chips(sides)): sides for sides in self.slices}
        sides = sizes.get(count, count)
        if not all(side.isdigit() and int(side) for side in sides.split("x")) or "x" not in sides:
            raise UserError(
                f"--chips: no slice of {chip} has {count} chips: give {', '.join(sizes)}, or its sides, "
                f"such as {self.slices[-1]}"
            )
        return Topology("tpu", chip, f"{chip}:{sides}", _chips(sides), self.memory)


@dataclasses.dataclass(frozen=True)
class Cpu:
    """This machine's processor, as so many devices that share its cores and its memory."""

    def topology(self, chip: str, count: str) -> Topology:
        """Returns so many devices, each with its part of the machine's memory."""
        number = int(count) if count.isdigit() else 0
        if number < 1:
            raise UserError(f"--chips: {count} CPU devices: give a number, such as cpu:4")
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return Topology("cpu", chip, count, number, memory // number)


def topology_of(chips: str) -> Topology:
    """Returns the topology that a person names.

    Args:
      chips: `h100:64` (GPUs), `v5p:64` (a TPU slice of so many chips), `v5p:4x4x4` (of these sides) or `cpu:4`.

    Raises:
      UserError: an unknown chip, or a number of them that no topology has.
    """
    kind, _, count = chips.partition(":")
    if kind not in CHIPS or not count:
        raise UserError(f"--chips {chips}: give a chip and how many, such as h100:64; chips: {', '.join(CHIPS)}")
    return CHIPS[kind].topology(kind, count)


def memory_of(device_kind: str) -> int | None:
    """Returns the bytes of a chip, by what JAX calls it; None: it is none of `CHIPS`."""
    chip = CHIPS.get(chip_name(device_kind) or "")
    return chip.memory if isinstance(chip, Gpu | Tpu) else None


def _chips(sides: str) -> int:
    return math.prod(map(int, sides.split("x")))


_EVERY_GPU = """\
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  device_vendor: "NVIDIA Corporation"
  device_address_bits: 64
  runtime_version: "12.8.0"
  compile_time_toolkit_version: "12.8.0"
  driver_version: "13.0.0"
  dnn_version: "9.10.0"
"""
"""What NVIDIA's data-centre GPUs since Ampere have in common, and the versions that the compiler counts on."""

_RATES = {10: 1.0, 16: 1.0, 11: 0.5}
"""XLA's number of a dtype (float16, bfloat16, float32 as tf32) -> the rate of tensor cores, as a part of bfloat16's."""

_SQUARES = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16")

CHIPS: dict[str, Gpu | Tpu | Cpu] = {
    "a100": Gpu(
        name="NVIDIA A100-SXM4-80GB",
        capability=(8, 0),
        accelerated=False,
        cores=108,
        fpus_per_core=64,
        clock_ghz=1.41,
        memory=85_100_068_864,
        l2=41_943_040,
        shared_memory=(167_936, 166_912),
    ),
    "h100": Gpu(
        name="NVIDIA H100 80GB HBM3",
        capability=(9, 0),
        accelerated=True,
        cores=132,
        fpus_per_core=128,
        clock_ghz=1.98,
        memory=84_942_979_072,
        l2=52_428_800,
        shared_memory=(233_472, 232_448),
        dense_bf16_per_clock=512,
        matrix_clock_ghz=1.8295201,
    ),
    "h200": Gpu(
        name="NVIDIA H200 141GB HBM3e",
        capability=(9, 0),
        accelerated=True,
        cores=132,
        fpus_per_core=128,
        clock_ghz=1.98,
        memory=151_397_597_184,
        l2=52_428_800,
        shared_memory=(233_472, 232_448),
        dense_bf16_per_clock=512,
        matrix_clock_ghz=1.8295201,
    ),
    "b200": Gpu(
        name="NVIDIA B200",
        capability=(10, 0),
        accelerated=True,
        cores=148,
        fpus_per_core=128,
        clock_ghz=1.965,
        memory=191_514_411_008,
        l2=132_644_864,
        shared_memory=(233_472, 232_448),
        dense_bf16_per_clock=1024,
        matrix_clock_ghz=1.8353101,
    ),
    "v5e": Tpu(16 * GIB, _SQUARES),
    "v5p": Tpu(95 * GIB, _CUBES),
    "v6e": Tpu(32 * GIB, _SQUARES),
    "cpu": Cpu(),
}
