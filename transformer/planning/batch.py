"""Batch: the shapes of what an experiment's step reads, without its data."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from transformer.parallel.layout import batch_sharding
from transformer.training.experiment import Experiment
from transformer.training.state import Batch


def abstract_batch(experiment: Experiment, mesh: Mesh) -> Batch:
    """Returns the batch of an update as `ShapeDtypeStruct`s: what the objective makes of padding, for each row.

    Rows are packed as a run's are: they have segments and positions wherever the objective's have.

    Raises:
      UserError: the experiment reads records whose shapes follow from the data alone.
    """
    train, sharding = experiment.train, batch_sharding(mesh)

    def rows(array: Any) -> jax.ShapeDtypeStruct:
        array = np.asarray(array)
        return jax.ShapeDtypeStruct((train.batch_size, *array.shape), array.dtype, sharding=sharding)

    return jax.tree.map(rows, experiment.objective.padding(train.seq_len, experiment.model))
