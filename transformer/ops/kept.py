"""Kept: what rematerialisation may keep of attention, so that its forward pass runs once."""

from collections.abc import Callable
from typing import Any

from jax.ad_checkpoint import Offloadable, Recompute, checkpoint_name

NAME = "attention"
"""What `checkpoint_name` calls results that may be kept."""
_FUSED = "dot_product_attention_fwd_wrapper"
"""JAX's primitive of cuDNN's kernel: the output and, where there is a gradient, the softmax's statistics."""


def kept(results: Any) -> Any:
    """Returns attention's results, the output or what its gradient needs besides, as such that may be kept."""
    return checkpoint_name(results, NAME)


def keeps_attention(primitive: Any, *_: Any, **params: Any) -> bool:
    """A policy of `jax.checkpoint`: keeps what is named `kept`, and all that cuDNN's kernel gives."""
    return primitive.name == _FUSED or (primitive.name == "name" and params["name"] == NAME)


def offloaded(keeps: Callable[..., bool]) -> Callable[..., Any]:
    """Returns a policy that keeps what `keeps` does in the memory of a device's host, from which copies do not wait."""
    to_host = Offloadable(src="device", dst="pinned_host")
    return lambda *primitive, **params: to_host if keeps(*primitive, **params) else Recompute
