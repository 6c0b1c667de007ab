"""Arrays by name that are read when they are looked up, so that memory stays near the largest."""

from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

import numpy as np

Place = TypeVar("Place")


class LazyArrays(Mapping[str, np.ndarray], Generic[Place]):
    """Arrays by name, each read whenever it is looked up."""

    def __init__(self, places: Mapping[str, Place], read: Callable[[Place], np.ndarray]):
        """Takes the place of each array by its name, and the function that reads the array at a place."""
        self._places, self._read = places, read

    def __getitem__(self, name: str) -> np.ndarray:
        return self._read(self._places[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
