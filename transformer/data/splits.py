"""Splits of samples that have none of their own: a hash of each sample's name decides, so it stays when others come."""

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import xxhash

Split = Literal["train", "validation"]


def encoded(text: str) -> bytes:
    """Returns UTF-8; what was no UTF-8 in the name of a file is as it was."""
    return text.encode(errors="surrogateescape")


def digest(parts: Sequence[str]) -> str:
    """Returns a hash of some strings, whose order and borders count."""
    hashed = xxhash.xxh3_128()
    for part in parts:
        content = encoded(part)
        hashed.update(len(content).to_bytes(8, "little"))
        hashed.update(content)
    return hashed.hexdigest()


def key_hashes(keys: Iterable[str]) -> np.ndarray:
    """Returns uint64[n], a hash of each key."""
    return np.array([xxhash.xxh3_64_intdigest(encoded(key)) for key in keys], np.uint64)


def held_out(hashes: np.ndarray, fraction: float) -> np.ndarray:
    """Returns bool[n]: whether each sample is for validation, by the hash of its key: so it stays when others come.

    Where chance holds out none, or all, the first or the last by the hash is.
    """
    held = hashes < np.uint64(fraction * (2**64 - 1))
    if len(held) > 1 and fraction > 0:
        held[hashes == hashes.min()] = True
        held[hashes == hashes.max()] = False
    return held
