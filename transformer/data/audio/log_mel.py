"""Log-mel spectrograms, as Whisper's authors make them (Radford et al. 2023, section 2.2; their `audio.py`).

Shape letters: S samples, F frames, M mel bins, K frequencies of a Fourier transform.
"""

import functools
import threading
from collections.abc import Callable

import numpy as np

RATE = 16_000
"""Samples a second."""
WINDOW, HOP = 400, 160
"""Samples of a frame (25 ms), and from one to the next (10 ms)."""
_BLOCK = 128
"""Frames that are transformed together: their arrays are in a processor's cache while they are."""
_FLOOR = 1e-10
"""The least energy that is told from none."""
_BREAK, _LINEAR = 1000.0, 200 / 3
"""Hertz from which on Slaney's mels are logarithmic, and hertz a mel below."""
_STEP = np.log(6.4) / 27
"""Logarithm of the factor that a mel is above."""


def log_mel(samples: np.ndarray, bins: int, least: int = 0) -> np.ndarray:
    """Returns float32 [F, M]: the logarithms of a sound's energies by mel bins, 10 ms a frame, about from -1 to 1.5.

    The ends are reflected, Hann's window is periodic, the last frame is dropped, and what is more than 8 (80 dB) below
    the loudest is raised to that.

    Args:
      samples: float [S], `RATE` a second, from -1 to 1; at least 201, or `least` is 2 or more.
      bins: M, 80 or 128.
      least: frames that there are at least: silence fills up a shorter sound.
    """
    edge, frames = WINDOW // 2, max(len(samples) // HOP, least)
    length = max(len(samples), frames * HOP)
    # In float64: what is far below the loudest would else be the rounding of what is loud.
    padded = np.zeros(edge + length + edge)
    padded[edge : edge + len(samples)] = samples
    padded[:edge], padded[-edge:] = padded[2 * edge : edge : -1], padded[-edge - 2 : -2 * edge - 2 : -1]
    # Frames that begin in the silence behind a sound need no transform.
    heard = min(frames, -(-(edge + len(samples)) // HOP))
    # A view that shares samples: `sliding_window_view` takes as long to make one as the transform does.
    step = padded.itemsize
    windows = np.ndarray((heard, WINDOW), padded.dtype, padded, strides=(HOP * step, step))
    parts = [_logs(windows[first : first + _BLOCK], bins) for first in range(0, heard, _BLOCK)]
    quietest = max(logs.max() for logs in parts) - 8.0
    features = np.empty((frames, bins), np.float32)
    features[heard:] = _scaled(np.array(max(np.log10(_FLOOR), quietest)))
    for number, logs in enumerate(parts):
        features[number * _BLOCK :][: logs.shape[1]] = _scaled(np.maximum(logs, quietest, out=logs)).T
    return features


def _logs(windows: np.ndarray, bins: int) -> np.ndarray:
    """Returns the logarithms of energies, [M, F], of as many frames as a block has at most."""
    scratch, count = _scratch, len(windows)
    framed = np.multiply(windows, _hann(), out=scratch.framed[:count])
    squares = np.fft.rfft(framed, axis=-1, out=scratch.spectrum[:count]).view(np.float64)
    np.multiply(squares, squares, out=squares)  # real and imaginary parts in turn
    energies = scratch.energies[: squares.size // 2].reshape(-1, count)
    np.add(squares[:, ::2].T, squares[:, 1::2].T, out=energies)
    mels = _sums(bins)(energies)
    return np.log10(np.maximum(mels, _FLOOR, out=mels), out=mels)


class _Scratch(threading.local):
    """A thread's arrays of one block of frames. In new ones for each sound, computing takes half as long again: they
    are elsewhere in memory each time, and in no cache.
    """

    def __init__(self) -> None:
        self.framed = np.empty((_BLOCK, WINDOW))
        self.spectrum = np.empty((_BLOCK, WINDOW // 2 + 1), np.complex128)
        self.energies = np.empty(_BLOCK * (WINDOW // 2 + 1))


_scratch = _Scratch()


def _scaled(logs: np.ndarray) -> np.ndarray:
    """Returns (logs + 4) / 4, in its place."""
    logs += 4.0
    logs /= 4.0
    return logs


@functools.cache
def _hann() -> np.ndarray:
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)


@functools.cache
def _sums(bins: int) -> Callable[[np.ndarray], np.ndarray]:
    """Returns what takes energies [K, F] to those of mel bins [M, F].

    A frequency is in two triangles at most, so a sparse product is less work than a dense one; and NumPy's threads,
    which a dense one would start, wait for each other many times as long as that takes where others use the cores.
    """
    from scipy.sparse import csr_array  # takes a fifth of a second to import

    sparse = csr_array(filters(bins).T)
    return lambda energies: sparse @ energies


@functools.cache
def filters(bins: int) -> np.ndarray:
    """Returns float64 [K, M]: Slaney's triangular filters of equal area (his Auditory Toolbox, 1998), 0 to 8,000 Hz."""
    frequencies = np.linspace(0, RATE / 2, WINDOW // 2 + 1)
    edges = _hertz(np.linspace(0, _mel(RATE / 2), bins + 2))
    rising = (frequencies[:, None] - edges[None, :-2]) / np.diff(edges)[None, :-1]
    falling = (edges[None, 2:] - frequencies[:, None]) / np.diff(edges)[None, 1:]
    triangles = np.maximum(0, np.minimum(rising, falling))
    return triangles * (2 / (edges[2:] - edges[:-2]))


def _mel(hertz: float) -> float:
    return hertz / _LINEAR if hertz < _BREAK else _BREAK / _LINEAR + np.log(hertz / _BREAK) / _STEP


def _hertz(mels: np.ndarray) -> np.ndarray:
    first = _BREAK / _LINEAR
    return np.where(mels < first, mels * _LINEAR, _BREAK * np.exp((mels - first) * _STEP))
