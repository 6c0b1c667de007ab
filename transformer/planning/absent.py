"""Absent devices: topologies that XLA compiles for on a machine that has none of their chips; and its own processor."""

import importlib.metadata
import os
from collections.abc import Sequence
from typing import Any

from transformer.errors import UserError
from transformer.planning.chips import Topology

PACKAGES = {
    "cuda": ("jax-cuda13-plugin", "jax-cuda13-pjrt", "nvidia-cuda-nvcc", "nvidia-nvvm"),
    "tpu": ("libtpu",),
    "cpu": (),
}
"""Platform -> what compiles for it: the compiler, and for GPUs ptxas and libdevice."""
OPTIONS = {"cuda": {"xla_gpu_enable_triton_gemm": False}, "tpu": {}, "cpu": {}}
"""Platform -> what its compiler is told. With no GPU to try kernels on, XLA takes Triton's for any product, and for
some there is none: of rows times an odd number of places, such as a ViT's 197. On a GPU it tries cuBLAS's, too."""
_EXTRAS = {"cuda": "aot", "tpu": "tpu"}


class NotInstalled(UserError):
    """What compiles for a chip, or a library that it needs, is not installed; the analytic model needs neither."""


def prepare(devices: int = 1) -> None:
    """Keeps JAX from looking for devices of this machine; to be called before anything else of JAX is.

    Else the CUDA plugin checks libraries that compiling does not need, and libtpu asks the cloud's metadata server
    what it runs on, for minutes.

    Args:
      devices: how many the processor is to have, to be planned for.
    """
    import jax

    os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}
    os.environ.setdefault("TPU_LOG_DIR", "disabled")
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)


def devices_of(topology: Topology) -> Sequence[Any]:
    """Returns the devices of a topology, on which nothing can be placed and for which everything can be compiled.

    Raises:
      NotInstalled: the compiler is not.
      UserError: it knows no such topology.
    """
    check_installed(topology.platform)
    import jax
    from jax.errors import JaxRuntimeError
    from jax.experimental import topologies

    if topology.platform == "cpu":
        return jax.devices("cpu")[: topology.devices]

    try:
        if topology.target_config is None:
            return topologies.get_topology_desc(topology.shape, platform=topology.platform).devices
        return topologies.get_topology_desc(
            platform=topology.platform, target_config=topology.target_config, topology=topology.shape
        ).devices
    except JaxRuntimeError as error:
        raise UserError(f"--chips: no topology {topology.shape}: {str(error).splitlines()[0]}") from error


def check_installed(platform: str) -> None:
    """Raises `NotInstalled` where a package is missing that compiles for a platform."""
    missing = [package for package in PACKAGES[platform] if not _installed(package)]
    if missing:
        raise NotInstalled(
            f"compiling for these chips needs packages that are not installed ({', '.join(missing)}): "
            f"pip install -c constraints.txt -e '.[{_EXTRAS[platform]}]'"
        )


def _installed(package: str) -> bool:
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
