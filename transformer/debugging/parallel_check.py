"""Does a mesh change the numbers? Updates of an experiment under many meshes, each against one device.

What is compared of a mesh: every update's loss and metrics; the first update's gradients; and the parameters and
moments after it. These last are compared with what one device makes of *the mesh's* gradients: an optimizer may turn
rounding noise into a whole step (a gradient that is nothing but noise divided by its own size), which would say nothing
about the mesh.

A ring deals a decoder's tokens in another order, in which they draw other masks of dropout: there, all is computed
without dropout.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from transformer.checkpoint.doctor import abstract_mesh
from transformer.errors import UserError
from transformer.parallel.layout import BatchLayout
from transformer.parallel.mesh import MESH_AXES, MeshConfig, described, make_mesh
from transformer.params import flatten
from transformer.training.dividing import check_batch, check_parameters
from transformer.training.experiment import Experiment
from transformer.training.frozen import Frozen
from transformer.training.program import Program
from transformer.training.state import TrainState

TOLERANCE = 1e-5
"""Differences allowed, as a share of a tensor's size: its largest magnitude."""
PARTS = ("loss", "metrics", "gradients", "update")
"""What is compared, in this order."""
TRIPLES = (
    ("data", "fsdp", "tensor"),
    ("data", "pipeline", "tensor"),
    ("fsdp", "sequence", "tensor"),
    ("pipeline", "fsdp", "sequence"),
    ("data", "expert", "tensor"),
    ("pipeline", "expert", "sequence"),
)
"""The triples of axes that are checked, beside all axes and all pairs."""
_LEAST = {"loss": 0.0, "metrics": 1e-3, "gradients": 1e-2, "update": 0.0}
"""A tensor counts as at least so large: metrics, in their own unit; gradients, as a share of the largest of them all.
A gradient that is zero but for rounding (of a bias of keys, say) has no size of its own."""


_LARGER = 4.0
"""By how much weights are larger than an experiment's own beginning where examples are told from each other. A model
that has learnt nothing makes nearly one vector of all of them, and the gradients of what tells them apart are
differences of almost equal numbers: rounding, which one device changes too if it reads the rows in another order."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What some updates came to on one mesh, on the host."""

    losses: dict[str, float]
    """`update 1`, ... -> the loss."""
    metrics: dict[str, float]
    """`update 1 grad_norm`, ... -> the value."""
    gradients: dict[str, np.ndarray]
    """Path -> the first update's gradient."""
    sums: Any
    """The sums of the first update that its optimizer reads beside the gradients: of losses, and of metrics."""
    update: dict[str, np.ndarray]
    """Path -> value after the first update, of parameters and of what the optimizer keeps."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far one mesh's numbers are from one device's."""

    worst: dict[str, float]
    """Part (`PARTS`) -> the largest difference of a tensor, as a share of its size."""
    first: tuple[str, str, float] | None
    """Part, path and share of the first tensor that differs by more than the tolerance; None: none does."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the check says of one mesh."""

    mesh: MeshConfig
    difference: Difference | None
    """None: the mesh was not tried."""
    refusal: str = ""
    """Why it was not, in a line."""

    @property
    def name(self) -> str:
        """The mesh in words."""
        return name_of(self.mesh)

    @property
    def axes(self) -> frozenset[str]:
        """The axes with more than one device."""
        return frozenset(axis for axis in MESH_AXES if (getattr(self.mesh, axis) or 1) > 1)

    @property
    def differs(self) -> bool:
        """Whether the mesh changes the numbers."""
        return self.difference is not None and self.difference.first is not None


class Reference:
    """The updates of an experiment on one device, and others' compared with them.

    Args:
      experiment: what is computed; its mesh is left aside.
      batches: one an update, global, in numpy.
      params: the parameters to begin with, in numpy, and an optimizer that remembers nothing; None: the experiment's
        own beginning (`_LARGER`, where examples are told from each other).
    """

    def __init__(self, experiment: Experiment, batches: Sequence[Mapping[str, Any]], params: Any = None):
        self._experiment, self._batches, self._params = experiment, batches, params
        self._mesh = make_mesh(MeshConfig(data=1))
        self._program = Program(dataclasses.replace(experiment, mesh=MeshConfig(data=1)), self._mesh)
        self._update = jax.jit(self._program.update)
        if params is None:
            with jax.set_mesh(self._mesh):
                self._state: TrainState = jax.tree.map(np.asarray, self._program.init())
            if not experiment.objective.sums_over_examples:
                larger = jax.tree.map(
                    lambda leaf: leaf * np.float32(_LARGER) if leaf.ndim > 1 else leaf, self._state.params
                )
                self._state = dataclasses.replace(self._state, params=larger)
        else:
            zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), self._program.abstract)
            self._state = dataclasses.replace(zeros, params=params)
        self.outcome = self._run(self._program, self._mesh)

    def compare(self, mesh: MeshConfig) -> Difference:
        """Returns how the numbers under a mesh differ; raises UserError where the experiment does not run under it."""
        ring = mesh.sequence > 1 and self._experiment.execution.context == "ring"
        if ring and without_dropout(self._experiment) != self._experiment:
            return self._without_dropout.compare(mesh)
        experiment, devices = dataclasses.replace(self._experiment, mesh=mesh), make_mesh(mesh)
        check_batch(experiment, devices)
        outcome = self._run(Program(experiment, devices), devices)
        with jax.set_mesh(self._mesh):
            loss_sum, sums, grads = outcome.sums
            updated, _ = self._update(self._state, loss_sum, sums, grads)
        want = dataclasses.replace(self.outcome, update=_updated(updated))
        return difference(outcome, want)

    @functools.cached_property
    def _without_dropout(self) -> "Reference":
        return Reference(without_dropout(self._experiment), self._batches, self._params)

    def _run(self, program: Program, mesh: Mesh) -> Outcome:
        layout = BatchLayout(mesh, len(self._batches[0]["targets"]))
        shardings = jax.tree.map(lambda leaf: leaf.sharding, program.abstract)
        losses, metrics, first = {}, {}, None

        def step(state: TrainState, batch: Any, frozen: Frozen) -> tuple[Any, ...]:
            loss_sum, sums, grads = program.gradients(state, batch, frozen)
            return *program.update(state, loss_sum, sums, grads), (loss_sum, sums, grads)

        with jax.set_mesh(mesh):
            jitted = jax.jit(step, out_shardings=(shardings, None, (None, None, shardings.params)))
            state = jax.device_put(self._state, shardings)
            for number, batch in enumerate(self._batches, 1):
                state, values, sums = jitted(state, layout.place(batch), program.frozen)
                first = first or (jax.device_get(sums), _updated(state))
                values = {name: float(value) for name, value in values.items()}
                losses[f"update {number}"] = values.pop("loss")
                metrics |= {f"update {number} {name}": value for name, value in values.items()}
        assert first is not None
        return Outcome(losses, metrics, flatten(first[0][2]), *first)


def difference(have: Outcome, want: Outcome, tolerance: float = TOLERANCE) -> Difference:
    """Returns how two outcomes differ, and the first tensor that does by more than the tolerance."""
    worst: dict[str, float] = {}
    differing: list[tuple[str, str, float]] = []
    for part, values, wanted in (
        ("loss", have.losses, want.losses),
        ("metrics", have.metrics, want.metrics),
        ("gradients", have.gradients, want.gradients),
        ("update", have.update, want.update),
    ):
        least = _LEAST[part]
        if part == "gradients":
            least *= max(_size(value) for value in wanted.values())
        shares = {path: share(values[path], wanted[path], least) for path in wanted}
        worst[part] = max(shares.values())
        differing += [(part, path, value) for path, value in shares.items() if not value <= tolerance]
    # The norm of the gradients only follows from them.
    causes = [each for each in differing if not each[1].endswith("grad_norm")]
    return Difference(worst, next(iter(causes or differing), None))


def share(have: Any, want: Any, least: float) -> float:
    """Returns the largest difference of two tensors as a share of the second's size, which is at least `least`."""
    if not (np.isfinite(have).all() and np.isfinite(want).all()):
        return 0.0 if np.array_equal(have, want, equal_nan=True) else math.inf
    largest = _size(np.asarray(have, np.float64) - np.asarray(want, np.float64))
    return largest / max(_size(want), least, float(np.finfo(np.float32).tiny))


def meshes(experiment: Experiment, devices: int) -> Iterator[Verdict]:
    """Yields the meshes to check, all axes, then all pairs, then `TRIPLES`; those without any size have a refusal.

    Of the sizes that divide the experiment, each takes those that use the most devices, most evenly. Data parallelism
    is there with ZeRO-1 too.
    """
    refused: set[frozenset[str]] = set()
    for axes in itertools.chain(((axis,) for axis in MESH_AXES), itertools.combinations(MESH_AXES, 2), TRIPLES):
        if any(known <= set(axes) for known in refused):
            continue
        mesh, refusal = _largest(experiment, axes, devices)
        if refusal:
            refused.add(frozenset(axes))
        yield Verdict(mesh, None, refusal)
        if not refusal and axes in (("data",), ("data", "fsdp")):
            yield Verdict(dataclasses.replace(mesh, zero1=True), None)


def checked(reference: Reference, verdict: Verdict) -> Verdict:
    """Returns the verdict on one of `meshes`, which is computed now."""
    if verdict.refusal:
        return verdict
    try:
        return Verdict(verdict.mesh, reference.compare(verdict.mesh))
    except UserError as error:
        return Verdict(verdict.mesh, None, str(error))


def comparable(experiment: Experiment) -> Experiment:
    """Returns the experiment in float32, on one device, with a kernel that a CPU has, at the peak of its rate.

    At the first update a warmup's rate is 0: nothing would change.
    """
    execution = dataclasses.replace(experiment.execution, dtype="float32", attention="auto", deterministic=False)
    optimizer = dataclasses.replace(experiment.optimizer, schedule="constant", warmup_steps=0)
    return dataclasses.replace(experiment, execution=execution, optimizer=optimizer, mesh=MeshConfig(data=1))


def without_dropout(experiment: Experiment) -> Experiment:
    """Returns the experiment with a model that drops nothing."""
    rates = [field.name for field in dataclasses.fields(experiment.model) if field.name.endswith("dropout")]
    return dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, **dict.fromkeys(rates, 0.0)))


def blamed(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Returns those that differ although no mesh of some of their axes does: what the axes do to the others."""
    differing = [verdict for verdict in verdicts if verdict.differs]

    def simpler(a: Verdict, b: Verdict) -> bool:
        return a.axes < b.axes or (a.axes == b.axes and b.mesh.zero1 and not a.mesh.zero1)

    return [verdict for verdict in differing if not any(simpler(other, verdict) for other in differing)]


def name_of(mesh: MeshConfig) -> str:
    """Returns a mesh in words: `data 2 x tensor 4, zero1`."""
    sizes = {axis: getattr(mesh, axis) or 1 for axis in MESH_AXES}
    return f"{described(sizes)}{', zero1' if mesh.zero1 else ''}"


def _largest(experiment: Experiment, axes: Sequence[str], devices: int) -> tuple[MeshConfig, str]:
    """Returns the mesh of these axes that divides the experiment and uses the most devices, or why none does."""
    sizes = [size for size in range(2, devices + 1) if devices % size == 0]
    products = [product for product in itertools.product(sizes, repeat=len(axes)) if math.prod(product) <= devices]
    refusal = f"{' x '.join(axes)} need{'s' if len(axes) == 1 else ''} more than {devices} devices"
    for product in sorted(products, key=lambda product: (-math.prod(product), -min(product), product[::-1])):
        mesh = _mesh_of(dict(zip(axes, product, strict=True)))
        try:
            check_batch(experiment, abstract_mesh(mesh))
            check_parameters(experiment, abstract_mesh(mesh))
        except UserError as error:
            refusal = str(error)
        else:
            return mesh, ""
    return _mesh_of(dict.fromkeys(axes, 2)), refusal


def _mesh_of(sizes: Mapping[str, Any]) -> MeshConfig:
    return MeshConfig(**{"data": 1, **sizes})


def _updated(state: TrainState) -> dict[str, np.ndarray]:
    return flatten(jax.device_get({"params": state.params, "optimizer": state.opt_state}))


def _size(x: Any) -> float:
    return float(np.abs(x).max(initial=0.0))
