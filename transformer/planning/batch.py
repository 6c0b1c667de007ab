"""Batch: the shapes of what an experiment's step reads, without its data."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from transformer.data.pairs.rows import PairReading
from transformer.data.records import Record
from transformer.data.text.records import TextReading
from transformer.errors import UserError
from transformer.objectives.objective import Setting
from transformer.parallel.layout import batch_sharding
from transformer.tokenizers.raw_bytes import ByteTokenizer
from transformer.tokenizers.vocabulary import Vocabulary
from transformer.training.experiment import Experiment
from transformer.training.state import Batch


def abstract_batch(experiment: Experiment, mesh: Mesh) -> Batch:
    """Returns the batch of an update as `ShapeDtypeStruct`s: what the objective makes of padding, for each row.

    Rows are packed: they have segments and positions wherever the objective's have.

    Raises:
      UserError: the experiment reads records whose shapes follow from the data alone.
    """
    objective, train = experiment.objective, experiment.train
    setting = Setting(Vocabulary.of(ByteTokenizer()), train.seq_len, experiment.model.first_decoder_token)
    example = objective.example(_padding(objective.reading(train.seq_len)), np.random.default_rng(0), setting)
    sharding = batch_sharding(mesh)

    def rows(array: Any) -> jax.ShapeDtypeStruct:
        array = np.asarray(array)
        return jax.ShapeDtypeStruct((train.batch_size, *array.shape), array.dtype, sharding=sharding)

    return jax.tree.map(rows, example)


def _padding(reading: Any) -> Record:
    """Returns a record that is all padding, of the kind that is read."""
    if isinstance(reading, PairReading):
        names = ("tokens", "positions", "segment_ids")
        sides = {"": reading.length, "target_": reading.target_length}
    elif isinstance(reading, TextReading):
        names = ("tokens", "segment_ids", *(["positions"] if reading.kind == "windows" else []))
        sides = {"": reading.length, **({"other_": reading.length} if reading.others else {})}
    else:
        raise UserError(
            "a step is planned without its data, and the shapes of these are not known before they are read: plan an "
            "experiment whose data are text or pairs of texts"
        )
    return {f"{side}{name}": np.zeros(length, np.int32) for side, length in sides.items() for name in names}
