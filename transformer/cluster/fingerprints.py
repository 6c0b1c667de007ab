"""Fingerprints of a process: its code, libraries, environment and devices, and the program that it is to compile.

Processes of one job run one program. With another version of the code, a library or a compiler flag on one host, a job
hangs in the first collective that the others do not have, or trains on wrong sums. What may differ from host to host is
no part of them: where code and caches lie, when they were written, and what is dumped where.
"""

import functools
import hashlib
import os
import platform
import re
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from transformer.cluster.alike import Fingerprint, digest

_PACKAGE = Path(__file__).parent.parent
_DISTRIBUTION = "transformer-train"
_LIBRARIES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorstore", "numpy", "ml-dtypes", "grain"),
    *("tokenizers", "sentencepiece", "array-record"),
    *("libtpu", "jax-cuda12-plugin", "jax-cuda12-pjrt", "jax-cuda13-plugin", "jax-cuda13-pjrt"),
    *("nvidia-cudnn-cu12", "nvidia-cudnn-cu13", "nvidia-nccl-cu12", "nvidia-nccl-cu13"),
    *("jax-rocm7-plugin", "jax-rocm7-pjrt"),
)
"""Distributions that make a program, its numbers, or what is read and written; those that are not there are absent."""
_FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
_LOCAL_FLAG = re.compile(r"dump|_(dir|file|path)$|^--xla_force_host_platform_device_count$")
"""Flags that may differ: they say where a host writes, or are seen in its devices."""
_VARIABLES = ("NVIDIA_TF32_OVERRIDE", "CUBLAS_WORKSPACE_CONFIG", "NCCL_ALGO", "NCCL_PROTO")
"""Variables that change a program's numbers, or that NCCL needs to be the same on all hosts."""
_JAX_CONFIG = (
    *("jax_platforms", "jax_enable_x64", "jax_disable_jit", "jax_debug_nans", "jax_debug_infs"),
    *("jax_default_matmul_precision", "jax_numpy_dtype_promotion", "jax_softmax_custom_jvp"),
    *("jax_default_prng_impl", "jax_enable_custom_prng", "jax_legacy_prng_key", "jax_random_seed_offset"),
    *("jax_threefry_partitionable", "jax_threefry_gpu_kernel_lowering", "jax_high_dynamic_range_gumbel"),
    *("jax_use_shardy_partitioner", "jax_allow_f16_reductions", "jax_compiler_enable_remat_pass"),
    *("jax_disable_most_optimizations", "jax_optimization_level", "jax_exec_time_optimization_effort"),
    *("jax_memory_fitting_level", "jax_memory_fitting_effort", "jax_enable_pgle", "jax_share_binary_between_hosts"),
    "jax_cpu_collectives_implementation",
)
_VALUE = re.compile(r"%[\w#:]+")


def code() -> Fingerprint:
    """Returns the version of this package and a hash of its source files, wherever they lie."""
    files = _source_hashes()
    version = _version(_DISTRIBUTION) or "of no installed version"
    return Fingerprint(
        "code", "runs other code than", {"transformer": f"{version}, hash {digest(files)}"}, parts=files, part="file"
    )


def libraries() -> Fingerprint:
    """Returns the versions of Python and of the libraries that make a program and its numbers."""
    versions = {name: version for name in _LIBRARIES if (version := _version(name)) is not None}
    return Fingerprint("libraries", "has other libraries than", {"Python": platform.python_version()} | versions)


def environment() -> Fingerprint:
    """Returns the flags and settings that change a program; starts no backend."""
    facts: dict[str, Any] = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    for variable in _FLAGS:
        for flag in _flags(os.environ.get(variable, "")):
            name, _, value = flag.partition("=")
            if not _LOCAL_FLAG.search(name):
                facts[f"{name} of {variable}"] = value
    config = {name: getattr(jax.config, name) for name in _JAX_CONFIG if hasattr(jax.config, name)}
    plain = (str, int, float, type(None))
    facts |= {name: value if isinstance(value, plain) else str(value) for name, value in config.items()}
    return Fingerprint("environment", "has another environment than", facts)


def devices() -> Fingerprint:
    """Returns the kind and number of this process's devices, and their runtime; starts the backend."""
    own = jax.local_devices()
    facts = {
        "number of devices": len(own),
        "kind of device": ", ".join(sorted({device.device_kind for device in own})),
        "platform": own[0].platform,
        "runtime": " ".join(own[0].client.platform_version.split()),
    }
    return Fingerprint("devices", "has other devices than", facts)


def flags(fields: Mapping[str, Any]) -> Fingerprint:
    """Returns the fingerprint of a configuration: dotted field -> JSON value."""
    return Fingerprint("flags", "was started with other flags than", fields)


def corpus(sources: Sequence[str], records: str) -> Fingerprint:
    """Returns the fingerprint of what is read.

    Args:
      sources: a hash of the content of each; hosts may call it by paths of their own.
      records: a hash of all records.
    """
    facts = {f"the hash of source {number}": digest(content) for number, content in enumerate(sources, start=1)}
    facts["the hash of all records"] = digest(records)
    return Fingerprint("corpus", "has another corpus than", facts)


def program(lowered: jax.stages.Lowered) -> Fingerprint:
    """Returns the fingerprint of a program that is to be compiled: its StableHLO, without the places in the source."""
    text = lowered.as_text()
    # Without the names of values, which are counted: the first line that differs is then one that computes otherwise.
    lines = {str(number): _VALUE.sub("%", line) for number, line in enumerate(text.splitlines(), start=1)}
    facts = {"its StableHLO": f"{len(lines)} lines, hash {digest(text)}"}
    return Fingerprint("program", "would compile another program than", facts, parts=lines, part="line")


@functools.cache
def _source_hashes() -> dict[str, str]:
    """Returns path within the package -> a hash of the file, for all Python files, in order."""
    hashes = {}
    for folder, subfolders, names in os.walk(_PACKAGE):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith((".", "__pycache__")))
        for name in sorted(names):
            if name.endswith(".py") and not name.startswith("."):
                path = Path(folder, name)
                hashes[path.relative_to(_PACKAGE.parent).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    return hashes


def _version(distribution: str) -> str | None:
    """Returns the installed version; None where there is none."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _flags(value: str) -> list[str]:
    """Returns the flags of a variable, which may name a file that holds them, as XLA allows."""
    if value and not value.lstrip().startswith("-") and (path := Path(value.strip())).is_file():
        value = path.read_text()
    return value.split()
