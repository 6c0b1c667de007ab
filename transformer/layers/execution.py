"""How a model is run: the options, and the stack of layers that obeys them.

Never what it is: options are not stored with a checkpoint and can change at every restore.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer import checks
from transformer.ops.attention import IMPLEMENTATIONS
from transformer.parallel.context import CONTEXTS

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
    context: Literal["gather", "ring"] = "gather"
    """How keys come to queries where --mesh.sequence splits a sequence: gather (all at once; any attention), or ring
    (those of one device after another, in memory that grows with a device's tokens alone; without dropout of attention
    probabilities and relative biases). A decoder's tokens are then dealt out so that all devices have as much to do."""
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
        checks.choice(self, "context", CONTEXTS)
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


class Stack(nn.Module):
    """Runs `num_layers` of the block that `make_block` makes, one after another, by a scan over stacked parameters.

    A stack whose layers differ in turn (GPT-3's dense and banded attention) is a stack of groups of them.
    """

    make_block: Callable[..., nn.Module]
    """Called with `name`; the block is called as block(x, per_layer, *shared, **static) -> (x, output)."""
    num_layers: int
    execution: Execution
    shared: bool = False
    """One block's parameters, not stacked, serve every layer (ALBERT)."""

    @nn.compact
    def __call__(self, x: Any, per_layer: Any, *shared: Any, **static: Any) -> tuple[Any, Any]:
        """Returns the last layer's `x` and the layers' outputs, stacked.

        Args:
          x: goes from layer to layer.
          per_layer: trees of arrays [layers, ...], of which each layer gets its own part; or None.
          *shared: arrays that every layer gets: masks, positions, biases.
          **static: Python values that every layer gets.
        """

        def layer(block, x, per_layer, shared):
            x, output = block(x, per_layer, *shared, **static)
            block.sow("intermediates", "hidden", x, reduce_fn=_last, init_fn=_nothing)
            return x, output

        unroll = self.execution.unroll or self.num_layers
        if self.execution.remat != "none":
            # Within a loop, forward and backward are apart already. Without one, the compiler would find that what is
            # computed again is known, and keep it.
            policy = REMAT_POLICIES[self.execution.remat]
            layer = nn.remat(layer, policy=policy, prevent_cse=unroll >= self.num_layers)
        scan = nn.scan(
            layer,
            variable_axes={"intermediates": 0} if self.shared else {"params": 0, "intermediates": 0},
            variable_broadcast="params" if self.shared else False,
            split_rngs={"params": not self.shared, "dropout": True},
            in_axes=(0, nn.broadcast),  # type: ignore[arg-type]
            length=self.num_layers,
            unroll=min(unroll, self.num_layers),
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        self.sow("intermediates", "embedded", x, reduce_fn=_last, init_fn=_nothing)
        return scan(self.make_block(name="layers"), x, per_layer, shared)


def _nothing() -> None:
    return None


def _last(_: Any, value: Any) -> Any:
    return value
