"""Augmentation of recordings in training: speed, noise, and masks on the spectrogram, by a generator of each sample's.

Shape letters: S samples, F frames, M mel bins.
"""

import dataclasses
from fractions import Fraction

import numpy as np

from transformer.data.audio.config import AudioConfig


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What a config makes of a recording in training."""

    config: AudioConfig

    def sound(self, samples: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
        """Returns float32 [S]: the recording at another speed, perhaps with noise.

        Args:
          samples: float32 [S].
          most: samples that the model hears; a speed at which there would be more is not taken.
          rng: decides.
        """
        config = self.config
        if config.speeds:
            slower = at_speed(samples, config.speeds[int(rng.integers(len(config.speeds)))])
            samples = slower if len(slower) <= most else samples
        if config.noise and rng.random() < config.noise:
            samples = with_noise(samples, rng.uniform(*config.noise_snr), rng)
        return samples

    def spectrogram(self, features: np.ndarray, frames: int, rng: np.random.Generator) -> np.ndarray:
        """Returns a spectrogram [F, M] with masks (SpecAugment: Park et al. 2019, section 2, without its warping).

        A mask's width is drawn first, from none to the most, and then its place, so that it lies inside. What it hides
        becomes the mean of the recording, which is the paper's zero, as its spectrograms have that mean. Masks may
        overlap.

        Args:
          features: float32 [F, M].
          frames: those that have sound; masks of time lie in them.
          rng: decides.
        """
        config, (_, bins) = self.config, features.shape
        if not (config.frequency_masks or config.time_masks):
            return features
        masked, mean = features.copy(), features[:frames].mean()
        for _ in range(config.frequency_masks):
            masked[:frames, span(bins, config.frequency_mask_bins, rng)] = mean
        widest = min(config.time_mask_frames, int(config.time_mask_share * frames))
        for _ in range(config.time_masks):
            masked[span(frames, widest, rng)] = mean
        return masked


def span(length: int, widest: int, rng: np.random.Generator) -> slice:
    """Returns a part of `length` places: from 0 to `widest` of them, each width as likely, and each place likewise."""
    width = int(rng.integers(min(widest, length) + 1))
    start = int(rng.integers(length - width + 1))
    return slice(start, start + width)


def with_noise(samples: np.ndarray, snr: float, rng: np.random.Generator) -> np.ndarray:
    """Returns a sound [S] with white noise, whose power is exactly `snr` decibels below the sound's."""
    noise = rng.standard_normal(len(samples), np.float32)
    power, own = np.square(samples, dtype=np.float64).mean(), np.square(noise, dtype=np.float64).mean()
    return samples + noise * np.float32(np.sqrt(power / own * 10 ** (-snr / 10)))


def at_speed(samples: np.ndarray, speed: float) -> np.ndarray:
    """Returns a sound [S], played at a speed, pitch and all: [ceil(S / speed)] (Ko et al. 2015, section 2)."""
    if speed == 1:
        return samples
    from scipy.signal import resample_poly  # takes a second to import

    ratio = Fraction(repr(speed))
    return resample_poly(samples, ratio.denominator, ratio.numerator).astype(np.float32)
