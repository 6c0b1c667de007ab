"""NumPy's generators for a whole batch, many times as cheap as one `default_rng` each."""

import functools
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence

_FEW = 8  # below this many, NumPy's own constructor is as fast
_POOL = 4
# The constants of NumPy's SeedSequence, which NEP 19 keeps as they are (after M. E. O'Neill's seed_seq, 2015).
_INIT_A, _MULT_A, _INIT_B, _MULT_B = 0x43B0D7E5, 0x931E8875, 0x8B51F9DD, 0x58F38DED
_MIX_L, _MIX_R = np.uint32(0xCA01F9DD), np.uint32(0x4973F715)
_HALF = np.uint32(16)


def generators(*words: int | np.ndarray) -> list[np.random.Generator]:
    """Returns the generators `np.random.default_rng((words[0][i], words[1][i], ...))`, one for each i.

    Args:
      words: what identifies a generator, at least one of them int[n]; a plain number is the same for all.
    """
    columns = np.broadcast_arrays(*words)
    # A number of 33 bits or more makes two words of entropy, so its seed is mixed in more rounds.
    if len(columns[0]) < _FEW or any(int(column.max()) >= 2**32 for column in columns):
        return [np.random.default_rng([int(word) for word in row]) for row in zip(*columns, strict=True)]
    entropy = np.stack([column.astype(np.uint32) for column in columns])
    pcg64: Any = np.random.PCG64  # whose stub knows of no seed sequence but NumPy's own
    return [np.random.Generator(pcg64(_Seeded(state))) for state in _states(entropy)]


class _Seeded(ISeedSequence):
    """A seed sequence whose words are known."""

    def __init__(self, state: np.ndarray):
        self._state = state

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray:
        return self._state


def _states(entropy: np.ndarray) -> np.ndarray:
    """Returns uint64[n, 4], what `SeedSequence(entropy[:, i]).generate_state(4, np.uint64)` is; uint32[words, n]."""
    words, count = entropy.shape
    pool = np.zeros((_POOL, count), np.uint32)
    pool[: min(words, _POOL)] = entropy[:_POOL]
    constants = _powers(_INIT_A, _MULT_A, 1 + _POOL + _POOL * (_POOL - 1) + _POOL * max(words - _POOL, 0))
    pool = _hash(pool, constants[: _POOL + 1])
    used = _POOL
    for source in range(_POOL):
        others = [target for target in range(_POOL) if target != source]
        pool[others] = _mix(pool[others], _hash(pool[source], constants[used : used + _POOL]))
        used += len(others)
    for word in entropy[_POOL:]:
        pool = _mix(pool, _hash(word, constants[used : used + _POOL + 1]))
        used += _POOL
    state = _hash(np.concatenate((pool, pool)), _powers(_INIT_B, _MULT_B, 2 * _POOL + 1))
    return np.ascontiguousarray(state.T).astype("<u4").view("<u8").astype(np.uint64)


def _hash(values: np.ndarray, constants: np.ndarray) -> np.ndarray:
    """Returns uint32[k, n]: `values`, [n] or [k, n], hashed with k constants in a row, of k + 1."""
    hashed = (values ^ constants[:-1, None]) * constants[1:, None]
    return hashed ^ (hashed >> _HALF)


def _mix(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    mixed = _MIX_L * x - _MIX_R * y
    return mixed ^ (mixed >> _HALF)


@functools.lru_cache(maxsize=32)
def _powers(first: int, factor: int, count: int) -> np.ndarray:
    return np.array([first * pow(factor, power, 2**32) % 2**32 for power in range(count)], np.uint32)
