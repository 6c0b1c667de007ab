"""RunTable: runs with their sizes, tokens, FLOPs and losses. Every law is fitted to one."""

import dataclasses
import hashlib
from collections.abc import Mapping

import numpy as np

from transformer.scaling.laws.warned import Warned


@dataclasses.dataclass(frozen=True)
class RunTable:
    """Runs, one per row; rows of one cell (`cells`) are repeats."""

    params: np.ndarray
    """[R] float64: N, by the convention that the table's reader names."""
    tokens: np.ndarray
    """[R] float64: D, tokens read, repeated ones counted each time."""
    loss: np.ndarray
    """[R] float64: nats, of any objective."""
    flops: np.ndarray
    """[R] float64: C of the training; 6 N D unless the table has its own."""
    unique_tokens: np.ndarray | None = None
    """[R] float64: tokens that the corpus has, where they were read more than once."""
    names: tuple[str, ...] = ()
    """Name of each row in messages; by default its number in the file."""
    convention: str = "6ND"
    """How `params` and `flops` were counted."""
    setting: np.ndarray | None = None
    """[R] int: each run's setting; None where all share one."""
    columns: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
    """Role -> name of its column in the file, and the choice of rows."""
    warned: tuple[Warned, ...] = ()
    """Warnings from reading the table."""

    def __len__(self) -> int:
        return len(self.loss)

    def take(self, rows: np.ndarray) -> "RunTable":
        """Returns the rows of a mask or of indices, which may repeat (a bootstrap's)."""
        names = tuple(np.asarray(self.names, object)[rows]) if self.names else ()
        unique = None if self.unique_tokens is None else self.unique_tokens[rows]
        return dataclasses.replace(
            self,
            params=self.params[rows],
            tokens=self.tokens[rows],
            loss=self.loss[rows],
            flops=self.flops[rows],
            unique_tokens=unique,
            names=names,
            setting=None if self.setting is None else self.setting[rows],
        )

    def cells(self) -> np.ndarray:
        """Returns each row's cell, [R] int from 0: rows of one cell agree in everything but the loss.

        Corpora that are larger than what was read of them do not differ.
        """
        unique = None if self.unique_tokens is None else np.minimum(self.unique_tokens, self.tokens)
        optional = [column for column in (unique, self.setting) if column is not None]
        key = np.stack([self.params, self.tokens, self.flops, *optional])
        return np.unique(key, axis=1, return_inverse=True)[1].ravel()

    def digest(self) -> str:
        """Returns the SHA-256 of the numbers, by which a fitted law knows its data."""
        hashed = hashlib.sha256()
        for column in (self.params, self.tokens, self.loss, self.flops, self.unique_tokens):
            hashed.update(b"none" if column is None else np.ascontiguousarray(column, np.float64).tobytes())
        return hashed.hexdigest()
