"""How a model is run: the options, and the stack of layers that obeys them.

Never what it is: options are not stored with a checkpoint and can change at every restore.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from flax.core.scope import LazyRng, Scope

from transformer import checks
from transformer.layers.cache import DecoderLayerCache, LayerCache
from transformer.layers.low_rank import COLLECTIONS
from transformer.layers.primitives import in_eight_bits, recomputed
from transformer.layers.routing import Routers
from transformer.ops.attention import IMPLEMENTATIONS
from transformer.ops.elementwise import numbered, row_numbers
from transformer.ops.kept import keeps_attention, offloaded
from transformer.parallel.context import CONTEXTS
from transformer.parallel.pipeline import Pipeline, pipeline_of
from transformer.parallel.rules import RESIDUAL, constrain, on_one_device

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}

OVERLAP: dict[str, bool | int] = {
    "xla_gpu_enable_latency_hiding_scheduler": True,  # orders a program so that collectives run beside computation
    "xla_gpu_enable_pipelined_all_gather": True,  # a loop over layers gathers the next layer's weights beforehand
    "xla_gpu_enable_pipelined_reduce_scatter": True,  # and scatters a layer's gradients during the next one
    "xla_gpu_enable_pipelined_all_reduce": True,
    "xla_gpu_all_gather_combine_threshold_bytes": 2**30,  # a layer's collectives become one
    "xla_gpu_reduce_scatter_combine_threshold_bytes": 2**30,
    "xla_gpu_all_reduce_combine_threshold_bytes": 2**30,
}
"""What `Execution.overlap` tells XLA's compiler for GPUs."""

_projections = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
_both = jax.checkpoint_policies.save_from_both_policies(_projections, keeps_attention)
OFFLOADED = "-offloaded"
"""Ends the names of policies that keep what they keep in the host's memory."""
# What the forward pass of a layer keeps for its backward pass; everything else is computed again. The least first.
REMAT_POLICIES: dict[str, Callable[..., Any]] = {
    "full": jax.checkpoint_policies.nothing_saveable,
    f"attention{OFFLOADED}": offloaded(keeps_attention),
    "attention": keeps_attention,
    f"projections+attention{OFFLOADED}": offloaded(_both),
    "projections": _projections,
    "projections+attention": _both,
    "dots": jax.checkpoint_policies.dots_saveable,
}


@dataclasses.dataclass(frozen=True)
class Execution:
    """How to run a model: every choice gives the same parameters and, up to rounding, the same numbers."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Dtype of matrix products and activations; parameters, norms, softmax, losses and the sums of parameters'
    gradients stay in float32. float16 is for inference alone."""
    quantization: Literal["none", "fp8"] = "none"
    """In what the layers' products with weights read numbers: none (in `dtype`), or fp8 (8-bit floats with a scale an
    array, forwards e4m3 and backwards e5m2; sums, embeddings, heads and experts stay as they are). Coarser than any
    other choice here: docs/gpus.md has what it does to a loss."""
    attention: str = "auto"
    """Attention implementation: auto, reference (plain float32), xla, cudnn (NVIDIA GPUs, 16-bit dtypes), or packed
    (cudnn, which on Hopper and newer GPUs is told where documents begin, and needs no mask of all pairs of tokens)."""
    context: Literal["gather", "ring"] = "gather"
    """How keys come to queries where --mesh.sequence splits a sequence: gather (all at once; any attention), or ring
    (those of one device after another, in memory that grows with a device's tokens alone; without dropout of attention
    probabilities and relative biases). A decoder's tokens are then dealt out so that all devices have as much to do."""
    unroll: int = 1
    """Layers a step of the loop over layers; 0 for all of them. More compile longer and may run faster."""
    remat: Literal[
        "auto", "none", "full", "attention", "projections", "projections+attention", "dots",
        "attention-offloaded", "projections+attention-offloaded",
    ] = "none"  # fmt: skip
    """What to compute again in the backward pass to save memory: none, full (all of a layer), dots (all but matrix
    products, of which a kernel of attention is none), projections (all but those with weights: attention too),
    attention (all but its result, so that cuDNN's kernel runs once), projections+attention; these two with
    -offloaded (what they keep waits in the host's memory, on GPUs); or auto (as little as planned memory allows on the
    devices of a run: `planning.rematerialisation`)."""
    microbatches: int | None = None
    """Parts that a pipeline (--mesh.pipeline) cuts a batch into, one a tick; None: up to four times as many as
    stages."""
    overlap: bool = False
    """On GPUs, compile with the options of `OVERLAP`: collectives are merged to a layer's, and run while other layers
    are computed. It takes memory, for the weights and gradients that are under way."""
    deterministic: bool = False
    """On GPUs, compile the run's programs from kernels alone that give the same bits each time, chosen without
    measuring. A bit-exact resume needs it there; it costs speed. CPUs and TPUs do not need it."""

    def __post_init__(self):
        checks.choice(self, "dtype", DTYPES)
        checks.choice(self, "quantization", ("none", "fp8"))
        checks.choice(self, "attention", ("auto", *IMPLEMENTATIONS))
        checks.choice(self, "context", CONTEXTS)
        checks.rule(self, "unroll", self.unroll >= 0, "layers a step of the loop, or 0 for all")
        checks.choice(self, "remat", ("auto", "none", *REMAT_POLICIES))
        checks.at_least(self, 1, "microbatches")

    def compiler_options(self, platform: str) -> dict[str, bool | int]:
        """Returns what to compile the run's programs with, for devices of a platform such as `gpu`."""
        if platform in ("cpu", "tpu"):
            return {}
        # Implies xla_gpu_exclude_nondeterministic_ops (scatters, cuDNN's attention, split products), and takes kernels
        # as they come: autotuning measures, and two starts of one run may find another the fastest.
        exact = {"xla_gpu_deterministic_ops": True} if self.deterministic else {}
        return exact | (OVERLAP if self.overlap else {})

    @property
    def recomputes(self) -> bool:
        """Whether a backward pass computes anything again. `auto` is settled where a model is trained; elsewhere there
        is no backward pass.
        """
        return self.remat not in ("auto", "none")

    @property
    def compute_dtype(self) -> Any:
        """The JAX dtype named by `dtype`."""
        return DTYPES[self.dtype]


class LayerOutput(struct.PyTreeNode):
    """What a block hands back besides its stream; of all of a stack's layers, stacked on the first axis."""

    cache: Any = None
    """With a cache: what it lacks so far, a layer's new keys and values (`blocks.NewMemories` of a decoder with an
    encoder)."""
    routers: Routers = struct.field(default_factory=dict)
    """Sums over tokens, which add up over rows, microbatches and stages; empty without experts."""


class Stack(nn.Module):
    """Runs `num_layers` of the block that `make_block` makes, one after another, by a scan over stacked parameters; or
    by a pipeline of such scans, where today's mesh has one.

    A stack whose layers differ in turn (GPT-3's dense and banded attention) is a stack of groups of them.
    """

    make_block: Callable[..., nn.Module]
    """Called with `name` or `parent`; the block is called as block(x, per_layer, *shared, **static) -> (x, output), the
    output a `LayerOutput`."""
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
          *shared: arrays that every layer gets: masks, positions, biases; with the batch's rows, or one for all.
          **static: Python values that every layer gets.
        """
        # Whoever looks inside the layers sees whole batches: without a pipeline, as parameters are made.
        if not (on_one_device() or self.is_initializing() or self.is_mutable_collection("intermediates")):
            rows, cached = jax.tree.leaves(x)[0].shape[0], _has_cache(per_layer)
            if pipeline := pipeline_of(self.execution.microbatches, self.num_layers, rows, cached=cached):
                return self._pipelined(pipeline, x, per_layer, shared, static)

        def layer(block, x, per_layer, shared):
            if not self.is_initializing():  # Flax counts keys on where it traces a body again; a pipeline's do not
                block.scope.rng_counters = dict.fromkeys(block.scope.rngs, 0)
            with _products(self.execution):
                x, output = block(x, per_layer, *shared, **static)
            show(block, "intermediates", "hidden", x)
            return x, output

        unroll = self.execution.unroll or self.num_layers
        if self.execution.recomputes:
            # Within a loop, forward and backward are apart already. Without one, the compiler would find that what is
            # computed again is known, and keep it.
            policy = REMAT_POLICIES[self.execution.remat]
            layer = nn.remat(layer, policy=policy, prevent_cse=unroll >= self.num_layers)
        axes: dict[Any, Any] = {"intermediates": 0, "attended": 0}
        axes |= {} if self.shared else dict.fromkeys(COLLECTIONS, 0)
        scan = nn.scan(
            layer,
            variable_axes=axes,
            variable_broadcast=COLLECTIONS if self.shared else False,
            split_rngs={"params": not self.shared, "dropout": True},
            in_axes=(0, nn.broadcast),  # type: ignore[arg-type]
            length=self.num_layers,
            unroll=min(unroll, self.num_layers),
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        show(self, "intermediates", "embedded", x)
        return scan(self.make_block(name="layers"), x, per_layer, shared)

    def _pipelined(self, pipeline: Pipeline, x: Any, per_layer: Any, shared: Any, static: Any) -> tuple[Any, Any]:
        """Returns what `__call__` does, by a pipeline: as a pure function of the stack's parameters and of its keys."""
        assert self.scope is not None  # of a module that is called
        held = [name for name in COLLECTIONS if "layers" in self.variables.get(name, {})]
        params = nn.meta.unbox({name: self.variables[name]["layers"] for name in held})
        rngs = {name: LazyRng.create(rng) for name, rng in self.scope.rngs.items()}
        # As `nn.scan` splits them: each layer's is of its own, and says where in the model the layers are.
        keys_N = {name: jax.random.split(rng.rng, self.num_layers) for name, rng in rngs.items()}
        places = {name: (*rng.suffix, "layers") for name, rng in rngs.items()}
        path = (*self.scope.path, "layers")  # by which routers' sums are told apart

        def layer(x: Any, of_layer: Any, common: Any, shared_and_rows: Any) -> tuple[Any, Any]:
            (stacked, keys, per_layer), (shared, rows_R) = of_layer, shared_and_rows
            lazy = {name: LazyRng.create(key, *places[name]) for name, key in keys.items()}
            scope = Scope(common if self.shared else stacked, lazy, mutable=False, path=path)
            with numbered(rows_R), _products(self.execution):
                return self.make_block(parent=scope)(x, per_layer, *shared, **static)

        layers = self.num_layers // pipeline.stages
        unroll = min(self.execution.unroll or layers, layers)
        if self.execution.recomputes:
            policy = REMAT_POLICIES[self.execution.remat]
            layer = jax.checkpoint(layer, policy=policy, prevent_cse=unroll >= layers)
        stacked, common = ((None, keys_N, per_layer), params) if self.shared else ((params, keys_N, per_layer), None)
        rows_B = row_numbers(jax.tree.leaves(x)[0].shape[0])
        x, sums = pipeline.run(layer, x, stacked, common, (shared, rows_B), unroll=unroll)
        return jax.tree.map(lambda x_BTD: constrain(x_BTD, *RESIDUAL), x), sums


@contextlib.contextmanager
def _products(execution: Execution) -> Iterator[None]:
    """Within, layers' products are as `execution` says."""
    with contextlib.ExitStack() as settings:
        if execution.recomputes:
            settings.enter_context(recomputed(True))
        if execution.quantization == "fp8":
            settings.enter_context(in_eight_bits(True))
        yield


def _has_cache(per_layer: Any) -> bool:
    is_cache = lambda leaf: isinstance(leaf, LayerCache | DecoderLayerCache)  # noqa: E731
    return any(map(is_cache, jax.tree.leaves(per_layer, is_leaf=is_cache)))


def show(module: nn.Module, collection: str, name: str, value: Any) -> None:
    """Keeps a value in one of the module's collections, for whoever asks for it by making that mutable; for all others
    it does nothing. Not while parameters are made.
    """
    if not module.is_initializing():
        module.sow(collection, name, value, reduce_fn=lambda _, new: new, init_fn=lambda: None)
