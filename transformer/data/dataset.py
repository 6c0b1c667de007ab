"""Datasets: what a run reads, whatever its kind. A kind adds a config, its records and a line in `kinds`."""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np

from transformer import checks
from transformer.data.records import LengthRecords, Record, Records


@dataclasses.dataclass(frozen=True)
class DataConfig(abc.ABC):
    """Which dataset, and how it is read: plain values, JSON both ways. A kind's config is a frozen dataclass too."""

    kind: ClassVar[str]
    """The name under which `transformer.data.kinds` and an experiment.json know it."""
    identity: ClassVar[tuple[str, ...]]
    """Fields that name what is read: with `changed`, a resumed run may have others."""
    paths: ClassVar[tuple[str, ...]] = ()
    """Fields that hold paths."""
    places: ClassVar[tuple[str, ...]] = ()
    """Fields that say where a machine keeps what is read: each process of a run may have its own."""

    def __post_init__(self) -> None:
        checks.require(self, bool(self.cache_dir), "`cache_dir` is empty: name a folder")
        checks.rule(self, "workers", self.workers >= 0, "it must be 0 (none) or the number of processes")

    @property
    @abc.abstractmethod
    def changed(self) -> bool:
        """Whether the dataset is meant to be another than the run began with. Not recorded: it holds for one start."""

    @property
    @abc.abstractmethod
    def cache_dir(self) -> str:
        """The folder that keeps what is prepared; safe to delete."""

    @property
    @abc.abstractmethod
    def workers(self) -> int:
        """Processes of each host that make training batches; 0: a thread of the training process."""

    @property
    @abc.abstractmethod
    def sources(self) -> tuple[str, ...]:
        """What people call each source, in the order of `Dataset.train`."""

    @abc.abstractmethod
    def flag(self, source: str) -> str:
        """Returns the field that names a source of `About.identity`, with its value."""

    def absolute(self) -> Self:
        """Returns the config with its paths in full, which mean the same from any folder; links are not followed."""
        return self


@dataclasses.dataclass(frozen=True)
class About:
    """What records and people are told of a dataset."""

    identity: Mapping[str, Any]
    """JSON values that tell it from another: `sources` (name -> a hash of its content and of what decides its split),
    and what else decides its records."""
    summary: str
    """How much there is to train on and to validate, a phrase."""
    notes: tuple[str, ...] = ()
    """How the sources are read, a line each."""
    training: tuple[str, ...] = ()
    """What people should know of the records to train on, a line each."""
    validation: tuple[str, ...] = ()
    """What people should know of the records to validate on, a line each."""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """What a run reads: records, and how they are mixed."""

    train: tuple[Records, ...]
    """The training records of each source of the mixture."""
    weights: tuple[float, ...]
    """How often each of `train` is drawn from; relative."""
    validation: Records
    """The validation records of all sources, one after the other and each once: weights do not apply."""
    fingerprint: str
    """A hash of all records: changes if a resumed run would see other data."""
    about: About

    @property
    def mean_length(self) -> float | None:
        """Tokens of a training example in the mean, where batches are as narrow as theirs allow; None: all are full."""
        known = [records.lengths for records in self.train if isinstance(records, LengthRecords)]
        return float(np.concatenate(known).mean()) if known else None

    @property
    def files(self) -> Mapping[str, bytes]:
        """Name -> content of what travels with every checkpoint, a tokenizer apart: what whoever restores a model needs
        to read an input as it was read here."""
        return {}

    def show(self, record: Record) -> tuple[str, ...]:
        """Returns what a person can read of a record; nothing by default."""
        del record
        return ()
