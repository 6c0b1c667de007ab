"""Division: what a mesh leaves one device of an experiment's step, in numbers; nothing is traced."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import AbstractMesh, AxisType

from transformer.errors import UserError
from transformer.layers.execution import DTYPES
from transformer.parallel.mesh import MESH_AXES, described, mesh_sizes
from transformer.parallel.pipeline import Pipeline, pipeline_on
from transformer.parallel.rules import RULES, resolve
from transformer.params import Names, Parameter, is_stacked, name_of
from transformer.training.dividing import check_batch
from transformer.training.experiment import Experiment

_KERNEL_DTYPES = ("bfloat16", "float16")
_WIDEST_HEAD = 128


class Division:
    """An experiment's step, as a mesh of so many devices divides it.

    Raises:
      UserError: the mesh has another number of devices, or divides no rows, lengths or parameters.
    """

    def __init__(self, experiment: Experiment, devices: int):
        if experiment.execution.remat == "auto":
            raise ValueError("what is computed again must be known (`rematerialisation`)")
        self.experiment, self.devices = experiment, devices
        self.sizes = mesh_sizes(experiment.mesh, devices=devices)
        if math.prod(self.sizes.values()) != devices:
            raise UserError(f"--chips: the mesh {described(self.sizes)} does not use the {devices} devices")
        self.mesh = AbstractMesh(tuple(self.sizes.values()), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))
        check_batch(experiment, self.mesh)
        self._held = {each.path: self.held(each.names, each.shape, each.path) for each in self.parameters}

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The model's arrays, sorted by path."""
        return self.experiment.model.counts.parameters

    @functools.cached_property
    def itemsize(self) -> int:
        """Bytes of a number that the model computes with."""
        return DTYPES[self.experiment.execution.dtype].dtype.itemsize

    @functools.cached_property
    def pipeline(self) -> Pipeline | None:
        """How layers are run; None: without a pipeline."""
        train = self.experiment.train
        return pipeline_on(self.mesh, self.experiment.execution.microbatches, train.microbatch_size)

    @functools.cached_property
    def rows(self) -> float:
        """Rows of a microbatch of accumulation's that a device computes, its group's along `tensor` and the like."""
        return self.experiment.train.microbatch_size / self.split("activation_batch")

    @functools.cached_property
    def passes(self) -> int:
        """How often a device reads its layers' parameters in the forward pass of a step: once a microbatch and tick."""
        return self.experiment.train.accumulation * (1 if self.pipeline is None else self.pipeline.ticks)

    @functools.cached_property
    def ticks_ratio(self) -> float:
        """What a pipeline computes, over what it computes for the batch: idle stages compute, too."""
        return 1.0 if self.pipeline is None else self.pipeline.ticks / self.pipeline.microbatches

    @functools.cached_property
    def depth(self) -> float:
        """Layers of a device, of all stacks."""
        return sum(self.experiment.model.stacks.values()) / self.split("layers")

    @functools.cached_property
    def steps(self) -> float:
        """Steps of a device's loops over layers, each of which computes a layer, or a group of layers that differ."""
        of_stack = {stack_of(each): each for each in self.parameters if of_layers(each)}
        return sum(map(self.layers, of_stack.values()))

    def layers(self, parameter: Parameter) -> float:
        """Returns how many layers of a device an array of the layers stands for, or is used in."""
        if is_stacked(parameter.names):
            return parameter.layers / self.split("layers")
        stacks = self.experiment.model.stacks
        return next(layers for module, layers in stacks.items() if module in parameter.modules) / self.split("layers")

    @functools.cached_property
    def counts_first(self) -> bool:
        """Whether layers run forward once more, before: with accumulation, for what experts' losses need of the whole
        batch.
        """
        routing = self.experiment.model.routing
        balances = routing is not None and (routing.balance_loss > 0 or routing.z_loss > 0)
        return balances and self.experiment.train.accumulation > 1

    @functools.cached_property
    def scored_words(self) -> int:
        """Places of an example that get the scores of words: of a masked language model, those that are masked."""
        experiment = self.experiment
        masked = self._example["inputs"].get("masked_positions")
        words = experiment.model.counts.places.words(*experiment.lengths)
        return words if masked is None else np.shape(masked)[-1]

    @property
    def has_segments(self) -> bool:
        """Whether rows are cut into segments that do not see each other: a kernel then reads a mask of all pairs."""
        return any(name.endswith("segment_ids") for name in self._example["inputs"])

    @functools.cached_property
    def _example(self) -> dict[str, Any]:
        """An example that is all padding."""
        return self.experiment.objective.padding(self.experiment.train.seq_len, self.experiment.model)

    def has_kernel(self, platform: str) -> bool:
        """Whether attention is cuDNN's kernel, which never writes its scores (`ops.attention` decides in a run).

        Args:
          platform: of the devices, as JAX calls it (`gpu`) or `jax.experimental.topologies` does (`cuda`).
        """
        model, execution = self.experiment.model, self.experiment.execution
        lengths = self.experiment.lengths
        widths = {each.head_width for each in model.counts.attentions(*lengths)}
        return (
            platform in ("gpu", "cuda")
            and execution.attention in ("auto", "cudnn", "packed")
            and execution.dtype in _KERNEL_DTYPES
            and self.sizes["sequence"] == 1
            and any(each.path.endswith("/query/kernel") for each in self.parameters)
            and max(widths) <= _WIDEST_HEAD
            and all(length % 2 == 0 for length in lengths)
            and not any("relative_bias" in each.modules for each in self.parameters)
            and not getattr(model, "attention_dropout", 0.0)
        )

    def split(self, name: str | None) -> int:
        """Returns into how many parts the mesh splits a dimension with this logical name."""
        return math.prod(self.sizes[axis] for axis in RULES[name]) if name else 1

    def held(self, names: Names, shape: Sequence[int], what: str) -> int:
        """Returns how many numbers of an array one device holds."""
        parts = math.prod(self.sizes[axis] for axis in axes_of(resolve(names, shape, self.sizes, what=what)))
        return math.prod(shape) // parts

    def of_device(self, parameter: Parameter) -> int:
        """Returns how many numbers of a parameter one device holds."""
        return self._held[parameter.path]

    def gathered(self, parameter: Parameter) -> int:
        """Returns how many numbers of a parameter a device computes with: its part of all layers that it holds, whole
        along the model width.
        """
        return self.of_device(parameter) * math.prod(self.sizes[axis] for axis in self.gathering(parameter))

    def gathering(self, parameter: Parameter) -> tuple[str, ...]:
        """Returns the mesh axes of more than one device along which a parameter is gathered before it is used."""
        spread = {axis for name in ("embed", "expert_embed") if name in parameter.names for axis in RULES[name]}
        return tuple(axis for axis in MESH_AXES if axis in spread and self.sizes[axis] > 1)


def axes_of(spec: Any) -> tuple[str, ...]:
    """Returns the mesh axes of a `PartitionSpec`."""
    entries = [entry if isinstance(entry, tuple) else (entry,) for entry in spec if entry is not None]
    return tuple(axis for entry in entries for axis in entry)


def is_kernel(parameter: Parameter) -> bool:
    """Whether an array multiplies activations as a matrix."""
    return name_of(parameter.path) == "kernel"


def of_layers(parameter: Parameter) -> bool:
    """Whether an array belongs to a stack's layers."""
    return "layers" in parameter.modules


def stack_of(parameter: Parameter) -> str:
    """Returns the module that loops over the layers to which an array belongs."""
    return parameter.path.partition("/layers/")[0]


def outputs(parameter: Parameter) -> dict[str | None, int]:
    """Returns the dimensions that a product with a kernel makes: logical name -> size."""
    own = [(name, size) for name, size in zip(parameter.names, parameter.shape, strict=True) if name not in _STACKED]
    return dict(own[-1:] if own[-1][0] in WIDTHS and own[0][0] not in WIDTHS else own[1:])


def inputs(parameter: Parameter) -> dict[str | None, int]:
    """Returns the dimensions that a product with a kernel sums over: logical name -> size."""
    made = outputs(parameter)
    names = zip(parameter.names, parameter.shape, strict=True)
    return {name: size for name, size in names if name not in _STACKED and name not in made}


_STACKED = ("layers", "experts")
WIDTHS = frozenset({"embed", "expert_embed"})
"""Names of the model width as a kernel's side."""


def part(dimensions: Mapping[str | None, int], division: Division) -> float:
    """Returns how many numbers of an activation with these dimensions a device has, a token; heads and MLP are split.

    A dimension of the model width is whole: parameters alone are split along it.
    """
    split = ("heads", "kv_heads", "mlp")
    return math.prod(size / (division.split(name) if name in split else 1) for name, size in dimensions.items())
