"""Logical axis names, and the one strict resolver from them to mesh axes.

Model code names the axes of its parameters and activations; a run chooses a mesh; this file is the only place that
joins them. The resolver is strict: an unknown name, two names of one array on the same mesh axis, and a dimension that
its mesh axes do not divide are errors, because XLA and Flax would silently replicate (or pad) instead.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import PartitionSpec

from transformer.errors import UserError

# Logical axis name -> the mesh axes that it is split over. Parameters are split by `fsdp` along the model width and by
# `tensor` along heads, MLP width and vocabulary (Megatron-LM's split); activations by `data` and `fsdp` along
# the batch.
RULES: dict[str, tuple[str, ...]] = {
    "layers": ("pipeline",),
    "embed": ("fsdp", "expert"),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "head": (),
    "latent": (),
    "mlp": ("tensor",),
    "experts": ("expert",),
    "expert_embed": ("fsdp",),
    "vocab": ("tensor", "pipeline"),
    "positions": (),
    "distances": (),
    "types": (),
    "frames": (),
    "grid": (),
    "learned": (),
    "pixels": (),
    "taps": (),
    "channels": (),
    "out": (),
    "label": (),
    "rank": (),
    "activation_batch": ("data", "fsdp", "expert"),
    "activation_length": ("sequence",),
    "activation_embed": (),
    "activation_heads": ("tensor",),
    "activation_kv_heads": ("tensor",),
    "activation_head": (),
    "activation_mlp": ("tensor",),
    "activation_vocab": ("tensor", "pipeline"),
    "activation_expert_batch": ("data", "fsdp"),
    "activation_experts": ("expert",),
}

RESIDUAL = ("activation_batch", "activation_length", "activation_embed")
"""The axes of what goes from block to block."""


def resolve(
    names: Sequence[str | None], shape: Sequence[int], mesh_shape: Mapping[str, int], *, what: str
) -> PartitionSpec:
    """Returns the partition of one array.

    Args:
      names: a logical name for each dimension (None: not split).
      shape: the array's shape.
      mesh_shape: mesh axis -> its size.
      what: what the array is, for the error message.

    Raises:
      KeyError: an unknown logical name (a bug of the model's, hence no UserError).
      UserError: two names on one mesh axis, or a dimension that its mesh axes do not divide.
    """
    if len(names) != len(shape):
        raise ValueError(f"{what}: {len(names)} axis names for shape {tuple(shape)}")
    check_names(names, what)
    taken: dict[str, str] = {}
    spec = []
    for name, size in zip(names, shape, strict=True):
        axes = split_axes(RULES[name] if name else (), mesh_shape)
        for axis in axes:
            if axis in taken:
                raise UserError(f"{what}: axes {taken[axis]!r} and {name!r} are both split over mesh axis {axis!r}")
            taken[axis] = str(name)
        parts = math.prod(mesh_shape[axis] for axis in axes)
        if size % parts:
            raise UserError(
                f"{what}: its {name!r} dimension of {size} is not divided by {' x '.join(axes)} = {parts} devices: "
                f"change {' or '.join(f'--mesh.{axis}' for axis in axes)}, or the model's size"
            )
        spec.append(axes if len(axes) > 1 else axes[0] if axes else None)
    return PartitionSpec(*spec)


def on_one_device() -> bool:
    """Whether no mesh of several devices is set: nothing is split then."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.empty or mesh.size == 1


def constrain(x: jax.Array, *names: str | None, padded: bool = False) -> jax.Array:
    """Fixes how the compiler lays out a large activation on the mesh of today; does nothing where no mesh is set.

    An unknown name raises, mesh or not. A dimension that its mesh axes do not divide (one token in decoding, a batch of
    one prompt) is left to the compiler: for an activation that costs speed at most, never memory for the whole run.
    With `padded`, the compiler pads such a dimension instead, where there is enough of it for every device.
    """
    if len(names) != x.ndim:
        raise ValueError(f"{len(names)} axis names for shape {x.shape}")
    check_names(names, "an activation")
    rules = [() if name is None else RULES[name] for name in names]
    if on_one_device():
        return x
    mesh, spec = jax.sharding.get_abstract_mesh(), []
    for axes, size in zip(rules, x.shape, strict=True):
        axes = free_axes(axes, mesh)
        parts = math.prod(mesh.shape[axis] for axis in axes)
        divided = size % parts == 0 or (padded and size >= parts)
        spec.append(axes if axes and divided else None)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))


def split_axes(axes: Sequence[str], mesh_shape: Mapping[str, int]) -> tuple[str, ...]:
    """Returns those of some mesh axes that split anything: they have more than one device."""
    return tuple(axis for axis in axes if mesh_shape.get(axis, 1) > 1)


def free_axes(axes: Sequence[str], mesh: Any) -> tuple[str, ...]:
    """Returns those of some mesh axes that split an array here: with more than one device, and not manual.

    Along a manual axis, a function around this one is written for one device's part already.

    Args:
      axes: mesh axes, as `RULES` has them.
      mesh: of devices, or abstract: with axes, or empty.
    """
    return tuple(axis for axis in split_axes(axes, mesh.shape) if axis not in mesh.manual_axes)


def check_names(names: Sequence[str | None], what: str) -> None:
    """Raises `KeyError` for a logical name without a rule: a bug of the model's, hence no UserError."""
    for name in names:
        if name is not None and name not in RULES:
            raise KeyError(f"{what}: unknown logical axis {name!r}; known: {', '.join(RULES)}")
