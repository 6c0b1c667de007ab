"""Probe: how long a study's runs will take: here, from a few updates of each size; elsewhere, as the planner tells."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import jax

from transformer.data.dataset import Dataset
from transformer.data.text.dataset import TextDataset
from transformer.planning.chips import topology_of
from transformer.planning.prediction import predict
from transformer.planning.rates import rates_for
from transformer.scaling.studies.study import Cell
from transformer.training.experiment import Experiment
from transformer.training.session import Session

_UPDATES = 5


def seconds_per_step(
    cells: Sequence[Cell],
    experiments: Mapping[str, Experiment],
    dataset: Dataset,
    progress: Callable[[], object] = lambda: None,
) -> dict[int, float]:
    """Returns N -> seconds of an update: the median of a few after the first, which compiles.

    The compiled programs stay in JAX's cache, for the runs.

    Args:
      cells: the cells of a study.
      experiments: the cells' experiments, by name.
      dataset: the dataset that all of them read.
      progress: called after each size.

    Raises:
      UserError: a mesh that does not divide something.
    """
    seconds: dict[int, float] = {}
    for cell in cells:
        if cell.params not in seconds:
            seconds[cell.params] = _seconds(experiments[cell.name], dataset)
            progress()
    return seconds


def planned_seconds_per_step(
    cells: Sequence[Cell], experiments: Mapping[str, Experiment], chips: str
) -> dict[int, float]:
    """Returns N -> seconds of an update on chips that need not be there, by the planner's analytic model.

    Args:
      cells: the cells of a study.
      experiments: the cells' experiments, by name.
      chips: as `planning.chips.topology_of` takes them: those of one run.

    Raises:
      UserError: there are no such chips, or the mesh does not divide something.
    """
    topology = topology_of(chips)
    seconds: dict[int, float] = {}
    for cell in cells:
        if cell.params not in seconds:
            experiment = experiments[cell.name]
            rates = rates_for(topology, experiment.execution.dtype)
            seconds[cell.params] = predict(experiment, topology, rates).time.total
    return seconds


def epochs(cells: Sequence[Cell], corpus: TextDataset) -> float:
    """Returns how often the longest run reads the corpus."""
    return max(cell.tokens for cell in cells) / corpus.train_tokens


def _seconds(experiment: Experiment, dataset: Dataset) -> float:
    session = Session(experiment, dataset=dataset)
    batches = [session.batch(step) for step in range(1, _UPDATES + 2)]
    seconds = []
    with jax.set_mesh(session.mesh):
        state = session.program.init()
        for batch in batches:
            began = time.perf_counter()
            state, _ = session.program.step(state, batch)
            jax.block_until_ready(state)
            seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])
