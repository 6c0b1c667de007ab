"""How a model is run: never what it is, so it is not stored with a checkpoint and can change at every restore."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from transformer import checks
from transformer.ops.attention import IMPLEMENTATIONS

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}

# What the forward pass of a layer keeps for its backward pass; everything else is computed again.
REMAT_POLICIES: dict[str, Callable[..., Any]] = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_saveable,
    "projections": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


@dataclasses.dataclass(frozen=True)
class Execution:
    """How to run a model: every choice gives the same parameters and, up to rounding, the same numbers."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Dtype of matrix products and activations; parameters, norms, softmax, losses and the sums of parameters'
    gradients stay in float32. float16 is for inference alone."""
    attention: str = "auto"
    """Attention implementation: auto, reference (plain float32), xla, or cudnn (NVIDIA GPUs, 16-bit dtypes)."""
    unroll: int = 1
    """Layers a step of the loop over layers; 0 for all of them. More compile longer and may run faster."""
    remat: Literal["none", "full", "dots", "projections"] = "none"
    """What to compute again in the backward pass to save memory: none, full (all of a layer), dots (all but matrix
    products), or projections (all but those with weights: attention scores too)."""
    deterministic: bool = False
    """On GPUs, compile the run's programs from kernels alone that give the same bits each time, chosen without
    measuring. A bit-exact resume needs it there; it costs speed. CPUs and TPUs do not need it."""

    def __post_init__(self):
        checks.choice(self, "dtype", DTYPES)
        checks.choice(self, "attention", ("auto", *IMPLEMENTATIONS))
        checks.rule(self, "unroll", self.unroll >= 0, "layers a step of the loop, or 0 for all")
        checks.choice(self, "remat", ("none", *REMAT_POLICIES))

    def compiler_options(self, platform: str) -> dict[str, bool]:
        """Returns what to compile the run's programs with, for devices of a platform such as `gpu`."""
        if not self.deterministic or platform in ("cpu", "tpu"):
            return {}
        # Implies xla_gpu_exclude_nondeterministic_ops (scatters, cuDNN's attention, split products), and takes kernels
        # as they come: autotuning measures, and two starts of one run may find another the fastest.
        return {"xla_gpu_deterministic_ops": True}

    @property
    def compute_dtype(self) -> Any:
        """The JAX dtype named by `dtype`."""
        return DTYPES[self.dtype]
