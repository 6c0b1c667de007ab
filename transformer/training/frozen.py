"""Frozen arrays: what a program reads and never changes, such as other weights; no checkpoint of the run holds them.

They are arguments of the compiled functions, never constants in them, and each has its sharding on today's mesh. Every
start of a run loads them anew.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jax.sharding import Mesh

from transformer import checkpoint
from transformer.adapters.adaptation import Adaptation
from transformer.checkpoint.adapted import restore_base
from transformer.distillation.distillation import Distillation
from transformer.distillation.teacher import Teacher
from transformer.errors import UserError
from transformer.models import Architecture
from transformer.parallel.layout import abstract_on
from transformer.training.experiment import Experiment

Frozen = Mapping[str, Any]
"""Name -> a tree of arrays, or of `ShapeDtypeStruct`s with shardings."""

BASE = "base"
"""The weights that an adapter is trained beside, as `adapters.adaptation` holds them."""
TEACHER = "teacher"
"""The weights of the model that this one learns from."""


class Part(NamedTuple):
    """A tree of frozen arrays."""

    abstract: Any
    """The tree of `ShapeDtypeStruct`s with shardings, as `parallel.layout.abstract_on` makes it."""
    load: Callable[[], Any]
    """Returns the tree of arrays, laid out so; all processes call it. Raises UserError where it cannot be had."""


class FrozenArrays:
    """The frozen arrays of a program: known by shape from the start, loaded when they are first asked for."""

    def __init__(self, parts: Mapping[str, Part]):
        self._parts = dict(parts)

    @functools.cached_property
    def abstract(self) -> Frozen:
        """The `ShapeDtypeStruct`s, with shardings."""
        return {name: part.abstract for name, part in self._parts.items()}

    @functools.cached_property
    def arrays(self) -> Frozen:
        """The arrays on the devices. All processes must ask for them in one place."""
        return {name: part.load() for name, part in self._parts.items()}


def frozen_of(experiment: Experiment, adapter: Adaptation | None, mesh: Mesh) -> FrozenArrays:
    """Returns what the program of an experiment reads beside its state and its batches.

    Args:
      experiment: the experiment.
      adapter: its adapter; None: it trains a whole model.
      mesh: today's devices, or an abstract mesh.
    """
    parts = {}
    if adapter is not None:
        abstract = abstract_on(adapter.abstract_base(), mesh)
        source = str(experiment.init.path)
        parts[BASE] = Part(abstract, lambda: restore_base(adapter, checkpoint.find(source), mesh))
    if experiment.teacher.path is not None:
        teacher = Teacher.of(experiment.teacher)
        parts[TEACHER] = Part(teacher.abstract(mesh), functools.partial(teacher.load, mesh))
    return FrozenArrays(parts)


def distillation_of(experiment: Experiment, architecture: Architecture) -> Distillation | None:
    """Returns the losses beside the experiment's teacher, whose weights are the frozen `TEACHER`; None: it has none.

    Raises:
      UserError: the model cannot learn from that teacher, or not in this way.
    """
    config = experiment.teacher
    if config.path is None:
        return None
    execution = experiment.execution
    if config.compares_layers and (experiment.mesh.pipeline or 1) > 1:
        raise UserError(
            "--teacher.hidden and --teacher.attention compare layers, which a pipeline hides: make --mesh.pipeline 1"
        )
    if config.attention and execution.context == "ring":
        raise UserError("--teacher.attention compares tokens in their order: give --execution.context gather")
    return Distillation(config, Teacher.of(config).architecture, architecture, experiment.objective, execution)
