"""One experiment at several widths: what a coordinate check and a search for learning rates vary."""

import dataclasses
from typing import Any

from transformer.models.resizing import scaled
from transformer.mup.parametrization import MupConfig
from transformer.parallel.mesh import MeshConfig
from transformer.training.experiment import Experiment

_SHORT = 64
"""Tokens of a sequence, at most, where nobody says otherwise."""


def shrunk(
    preset: Experiment, width: int, *, head_width: int, layers: int, optimizer: dict[str, Any], train: dict[str, Any]
) -> Experiment:
    """Returns a preset that is quick to train: a small model, on one device, without accumulation.

    Args:
      preset: what is made smaller.
      width: of the model.
      head_width: of its attention heads.
      layers: blocks, of the deeper side where there are two.
      optimizer: its fields in place of the preset's.
      train: likewise, of the run's length and batches; its `seq_len` may be None: the preset's, if that is short.
    """
    seq_len = train["seq_len"] or min(preset.train.seq_len, _SHORT)
    return dataclasses.replace(
        preset,
        model=scaled(preset.model, width, head_width=head_width, layers=layers),
        optimizer=dataclasses.replace(preset.optimizer, **optimizer),
        train=dataclasses.replace(preset.train, accumulation=1, epochs=None, **train | {"seq_len": seq_len}),
        mesh=MeshConfig(data=1),
    )


def at_width(experiment: Experiment, width: int, base: MupConfig, *, head_width: int | None = None) -> Experiment:
    """Returns the experiment with a model of this width, all of whose updates have the learning rate's peak.

    Args:
      experiment: whose model is made wider or narrower.
      width: of the model.
      base: muP's, or none.
      head_width: of its heads; None: as it is, so that their number grows.
    """
    model = scaled(experiment.model, width, head_width=head_width)
    optimizer = dataclasses.replace(experiment.optimizer, schedule="constant", warmup_steps=0)
    return dataclasses.replace(experiment, model=model, optimizer=optimizer, mup=base)
