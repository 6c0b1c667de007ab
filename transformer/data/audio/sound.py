"""Sound files as samples: mixed to one channel, at the rate that speech models read."""

import math
from pathlib import Path

import numpy as np

from transformer.data.audio.log_mel import RATE, WINDOW
from transformer.errors import UserError


def load(path: Path) -> np.ndarray:
    """Returns float32 [samples], from -1 to 1, 16,000 a second: a file of any format that libsndfile reads.

    Channels are averaged; another rate is resampled by a polyphase filter (`scipy.signal.resample_poly`).

    Raises:
      UserError: there is no such file, it is no sound, is damaged, or too short to hear anything in.
    """
    import soundfile  # loads a library of C

    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise UserError(f"{path}: no sound that can be read ({error.error_string.strip().rstrip('.')})") from error
    if not len(samples):
        raise UserError(f"{path}: it has no samples")
    if not np.isfinite(samples).all():
        raise UserError(f"{path}: some of its samples are no numbers")
    mono = resampled(samples.mean(axis=1), rate)
    if len(mono) <= WINDOW // 2:
        raise UserError(f"{path}: {1000 * len(mono) / RATE:.0f} ms of sound, too short for a frame of 25 ms")
    return mono


def resampled(samples: np.ndarray, rate: int) -> np.ndarray:
    """Returns samples at 16,000 a second, float32 [ceil(n * 16000 / rate)]."""
    if rate == RATE:
        return samples
    from scipy.signal import resample_poly  # takes a second to import

    shared = math.gcd(RATE, rate)
    return resample_poly(samples, RATE // shared, rate // shared).astype(np.float32)
