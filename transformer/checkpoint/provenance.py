"""What wrote a checkpoint: `record/written_by.json`."""

import platform
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import jax

from transformer.checkpoint.files import to_json

NAME = "written_by.json"
_PACKAGES = ("transformer-train", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorstore", "numpy")


def written_by(program: str, sources: Sequence[Any] = ()) -> bytes:
    """Returns the file that says which program, of which versions and on what, wrote a checkpoint.

    Args:
      program: as a person calls it.
      sources: the checkpoints that it was made of.
    """
    installed = {package.name.lower() for package in metadata.distributions()}
    devices = jax.devices()
    record = {
        "program": program,
        "devices": f"{len(devices)} {devices[0].device_kind}",
        "processes": jax.process_count(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in _PACKAGES if name in installed},
    }
    return to_json(record | ({"sources": [str(source) for source in sources]} if sources else {}))
