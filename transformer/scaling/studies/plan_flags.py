"""Flags of `tools/scaling.py plan`, in a file of their own because they import JAX, which fitting does without."""

import dataclasses
from typing import Annotated

import tyro

from transformer.models.resizing import Shaping
from transformer.scaling.studies.plan import Request
from transformer.training.experiment import Experiment


@dataclasses.dataclass(frozen=True)
class Plan:
    """Plan a study: a folder of experiments, to be run, fitted and reported."""

    study: tyro.conf.Positional[str]
    """A new folder."""
    request: Annotated[Request, tyro.conf.arg(name="")]
    """What the study should measure."""
    experiment: Annotated[Experiment, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff]
    """The experiment that every run shares."""
    shape: Shaping = Shaping()
    """Rules for a well-shaped size."""
    preset: str = "gpt-scaling"
    """The preset whose model gives the proportions, and whose data and optimizer all sizes get."""
    probe: bool = True
    """Time a few updates of each size here."""
    chips: str | None = None
    """The chips that each run is to have, such as h100:8: the planner tells their time, and nothing is timed here."""
    jobs: int = 1
    """Runs that are to be made at a time: for the estimate of the time."""


@dataclasses.dataclass(frozen=True)
class Preset:
    """The flag that is read before all others, since it decides their defaults."""

    preset: str = "gpt-scaling"
