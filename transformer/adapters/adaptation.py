"""Adaptation: an adapter of one architecture, which kernels have factors, what else is trained, what is frozen.

The trained parameters are a tree of their own, in the places that they have in the architecture's: a kernel's factors
are `lora_a`, `lora_b` and, with DoRA, `lora_magnitude` beside it. The base is a tree of what is frozen, in the dtypes
that it is held in, with the scales of what is in int8.
"""

import dataclasses
import difflib
import functools
import re
from collections.abc import Collection, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.adapters.config import AdapterConfig
from transformer.errors import UserError
from transformer.layers import low_rank
from transformer.layers.execution import Execution
from transformer.layers.experts import ExpertKernels
from transformer.layers.low_rank import ADAPTER, SCALES
from transformer.layers.primitives import Linear
from transformer.models.architecture import Architecture
from transformer.params import STACKING, Names, Parameter, flatten, is_matrix, unflatten

_DRAWN = 0x4C6F5241
"""Folded into a run's seed for the factors: no parameter of a model is drawn with this key."""


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel of a linear layer, of one or of many stacked ones, as a matrix: which of its axes are inputs."""

    parameter: Parameter
    num_outputs: int

    @property
    def path(self) -> str:
        """The kernel's path."""
        return self.parameter.path

    @property
    def module(self) -> str:
        """The layer's path."""
        return self.path.rpartition("/")[0]

    @property
    def axes(self) -> dict[str, int]:
        """How many of its first axes are stacked, and how many of the next are inputs: arguments of `low_rank`'s."""
        stacked = sum(name in STACKING for name in self.parameter.names)
        return {"stacked": stacked, "inputs": len(self.parameter.names) - stacked - self.num_outputs}

    def factors(self, config: AdapterConfig) -> dict[str, Parameter]:
        """Returns name (`lora_a`, ...) -> parameter of the factors beside it."""
        (stacked, inputs), names, shape = self.axes.values(), self.parameter.names, self.parameter.shape
        outputs = slice(stacked + inputs, None)
        parts: dict[str, tuple[Names, tuple[int, ...]]] = {
            "lora_a": ((*names[: stacked + inputs], "rank"), (*shape[: stacked + inputs], config.rank)),
            "lora_b": ((*names[:stacked], "rank", *names[outputs]), (*shape[:stacked], config.rank, *shape[outputs])),
        }
        if config.dora:
            parts["lora_magnitude"] = (*names[:stacked], *names[outputs]), (*shape[:stacked], *shape[outputs])
        return {name: Parameter(f"{self.module}/{name}", *part) for name, part in parts.items()}


@dataclasses.dataclass(frozen=True)
class Adaptation:
    """An adapter of an architecture, without its weights."""

    config: AdapterConfig
    architecture: Architecture
    targets: Mapping[str, Kernel]
    """Path -> kernel with factors beside it."""
    whole: frozenset[str]
    """Paths of the parameters that are trained themselves."""

    @property
    def frozen(self) -> dict[str, Parameter]:
        """Path -> parameter of the base."""
        return {path: leaf for path, leaf in self.architecture.parameters.items() if path not in self.whole}

    def abstract_params(self) -> Any:
        """Returns the tree of boxes of what is trained."""
        own = self.architecture.parameters
        factors = [leaf for kernel in self.targets.values() for leaf in kernel.factors(self.config).values()]
        return _boxed([*(own[path] for path in sorted(self.whole)), *factors])

    def abstract_base(self) -> dict[str, Any]:
        """Returns the trees of boxes of the base as it is held: `params`, and `scales` of what is in int8."""
        kernels, scales = linear_kernels(self.architecture), []
        dtypes = {path: _held_dtype(self.config, path, path in kernels) for path in self.frozen}
        for path in self.frozen:
            if dtypes[path] == jnp.int8:
                names, shape = self.architecture.parameters[path].names, self.architecture.parameters[path].shape
                stacked, inputs = kernels[path].axes.values()
                kept = [axis for axis in range(len(shape)) if not stacked <= axis < stacked + inputs]
                scales.append(Parameter(path, tuple(names[i] for i in kept), tuple(shape[i] for i in kept)))
        return {"params": _boxed(self.frozen.values(), dtypes), SCALES: _boxed(scales)}

    def held(self, params: Mapping[str, jax.Array]) -> dict[str, dict[str, jax.Array]]:
        """Returns some of the base's parameters, path -> array, as they are held: `params`, and `scales`."""
        kernels = linear_kernels(self.architecture)
        result: dict[str, dict[str, jax.Array]] = {"params": {}, SCALES: {}}
        for path, array in params.items():
            dtype = _held_dtype(self.config, path, path in kernels)
            if dtype == jnp.int8:
                result["params"][path], result[SCALES][path] = low_rank.quantised(array, **kernels[path].axes)
            else:
                result["params"][path] = array.astype(dtype)
        return result

    def initial(self, seed: Any) -> dict[str, jax.Array]:
        """Returns path -> the factors as they begin; their product is 0, and lengths are 1 until they are measured."""
        key = jax.random.fold_in(jax.random.key(seed), _DRAWN)
        result = {}
        for number, path in enumerate(sorted(self.targets)):
            kernel = self.targets[path]
            for name, leaf in kernel.factors(self.config).items():
                drawn = jnp.full(leaf.shape, name == "lora_magnitude", jnp.float32)
                if name == "lora_a":
                    drawn = low_rank.initial_a(jax.random.fold_in(key, number), leaf.shape, kernel.axes["stacked"])
                result[leaf.path] = drawn
        return result

    def measured(self, base: Mapping[str, Any]) -> dict[str, jax.Array]:
        """Returns path -> the lengths of the base's outputs, with which DoRA begins; nothing without it."""
        if not self.config.dora:
            return {}
        return {
            f"{kernel.module}/lora_magnitude": low_rank.lengths(self._dequantised(path, base), **kernel.axes)
            for path, kernel in self.targets.items()
        }

    def variables(self, params: Any, base: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the collections that the model is applied with.

        Args:
          params: the tree of what is trained.
          base: the base as it is held.
        """
        trained = flatten(params)
        adapter = {}
        for kernel in self.targets.values():
            names = [*kernel.factors(self.config)]
            arrays = {name: trained.pop(f"{kernel.module}/{name}") for name in names}
            arrays["lora_b"] = arrays["lora_b"] * jnp.float32(self.config.scale)
            adapter |= {f"{kernel.module}/{name.removeprefix('lora_')}": array for name, array in arrays.items()}
        collections = {
            "params": {**flatten(base["params"]), **trained},
            ADAPTER: adapter,
            SCALES: flatten(base[SCALES]),
        }
        return {name: unflatten(leaves) for name, leaves in collections.items() if leaves}

    def merged(self, params: Any, base: Mapping[str, Any]) -> Any:
        """Returns the architecture's parameters: those of a model without an adapter that computes the same."""
        trained, result = flatten(params), {}
        for path in self.architecture.parameters:
            if path in self.whole:
                result[path] = trained[path]
                continue
            result[path] = self._dequantised(path, base)
            if (kernel := self.targets.get(path)) is not None:
                a, b, *magnitude = (trained[f"{kernel.module}/{name}"] for name in kernel.factors(self.config))
                scaled = b * jnp.float32(self.config.scale)
                result[path] = low_rank.merged(result[path], a, scaled, *magnitude or [None], **kernel.axes)
        return unflatten(result)

    def _dequantised(self, path: str, base: Mapping[str, Any]) -> jax.Array:
        array, scales = flatten(base["params"])[path], flatten(base[SCALES])
        if path not in scales:
            return array.astype(jnp.float32)
        return low_rank.dequantised(array, scales[path], **linear_kernels(self.architecture)[path].axes)


def adaptation(config: AdapterConfig, architecture: Architecture, taken: Collection[str]) -> Adaptation:
    """Returns the adapter that a config describes.

    Args:
      config: with a rank.
      architecture: the model.
      taken: paths of the parameters that the weights have just as the model needs them; the others are trained.

    Raises:
      UserError: a pattern matches nothing, or experts' factors would have dropout.
    """
    own, kernels = architecture.parameters, linear_kernels(architecture)
    whole = frozenset(own.keys() - {*taken})
    if config.whole is not None:
        named = _matching("--adapter.whole", config.whole, own, "array of the model")
        whole |= named
    if config.leaves is None:
        # The layers of a stack are below a module of this name; heads, and what stands before the layers, are not.
        chosen = {path for path in kernels if "/layers/" in path}
    else:
        chosen = _matching("--adapter.leaves", config.leaves, kernels, "kernel of a linear layer")
    targets = {path: kernels[path] for path in sorted(chosen - whole)}
    if not targets:
        raise UserError("--adapter.rank: no kernel is left to adapt: all that --adapter.leaves names are trained whole")
    experts = [path for path, kernel in targets.items() if "experts" in kernel.parameter.names]
    if config.dropout and experts:
        raise UserError(
            f"--adapter.dropout {config.dropout}: the factors of experts ({experts[0]}) have no dropout: make it 0, or "
            "name other kernels by --adapter.leaves"
        )
    return Adaptation(config, architecture, targets, whole)


@functools.lru_cache(maxsize=64)
def linear_kernels(architecture: Architecture) -> Mapping[str, Kernel]:
    """Returns path -> kernel, of all linear layers and experts of an architecture."""
    found: dict[str, int] = {}

    def note(method: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        if context.method_name == "__call__" and isinstance(module, Linear | ExpertKernels):
            found["/".join((*module.path, "kernel"))] = len(module.outputs) if isinstance(module, Linear) else 1
        return method(*args, **kwargs)

    model = architecture.build(Execution())
    with nn.intercept_methods(note):
        jax.eval_shape(lambda: model.init(jax.random.key(0), **architecture.example_inputs()))
    own = architecture.parameters
    return {path: Kernel(own[path], found[path]) for path in own if path in found}


def _held_dtype(config: AdapterConfig, path: str, is_linear: bool) -> Any:
    if config.base_dtype == "float32" or not is_matrix(path):
        return jnp.dtype(jnp.float32)
    return jnp.dtype(jnp.int8 if config.base_dtype == "int8" and is_linear else jnp.bfloat16)


def _boxed(leaves: Collection[Parameter], dtypes: Mapping[str, Any] | None = None) -> Any:
    dtypes = dtypes or {}
    return unflatten(
        {
            leaf.path: nn.LogicallyPartitioned(
                jax.ShapeDtypeStruct(leaf.shape, dtypes.get(leaf.path, jnp.float32)), leaf.names
            )
            for leaf in leaves
        }
    )


def _matching(flag: str, pattern: str, paths: Collection[str], what: str) -> set[str]:
    """Returns the paths that a pattern matches in full, at least one."""
    chosen = {path for path in paths if re.fullmatch(pattern, path)}
    if not chosen:
        nearest = ", ".join(difflib.get_close_matches(pattern, paths, n=3, cutoff=0.0))
        raise UserError(f"{flag} {pattern!r} matches the whole path of no {what}; the nearest: {nearest}")
    return chosen
