"""Log-mel spectrograms are Whisper's, on noise, on tones and on real speech."""

from pathlib import Path

import numpy as np
import pytest
from transformers import WhisperFeatureExtractor
from transformers.audio_utils import mel_filter_bank

from transformer.data.audio.log_mel import filters, log_mel
from transformer.data.audio.sound import load

SPEECH = Path("~/.cache/real-weights/speech").expanduser()


def theirs(samples, bins):
    """Returns the padded samples and Hugging Face's spectrogram by NumPy, in float64.

    Where PyTorch is there it takes that instead, whose float32 is up to 4e-5 from this, and from ours.
    """
    extractor = WhisperFeatureExtractor(feature_size=bins)
    seconds = extractor.n_samples
    padded = np.pad(samples, (0, max(seconds - len(samples), 0)))[:seconds]
    return padded, extractor._np_extract_fbank_features(np.array([padded]), "cpu")[0].T


@pytest.mark.parametrize("bins", [80, 128])
def test_filters_are_slaneys(bins):
    want = mel_filter_bank(201, bins, 0.0, 8000.0, 16000, norm="slaney", mel_scale="slaney")
    np.testing.assert_allclose(filters(bins), want, rtol=0, atol=1e-8)


@pytest.mark.parametrize("bins", [80, 128])
@pytest.mark.parametrize("kind", ["noise", "tone", "silence", "quiet"])
def test_it_is_whispers(kind, bins):
    rng = np.random.default_rng(0)
    samples = {
        "noise": rng.normal(0, 0.1, 50_000),
        "tone": np.sin(2 * np.pi * 333 * np.arange(480_000) / 16000),
        "silence": np.zeros(16_000),
        "quiet": rng.normal(0, 1e-5, 480_000),
    }[kind].astype(np.float32)
    padded, want = theirs(samples, bins)
    have = log_mel(padded, bins)
    assert have.shape == (3000, bins)
    np.testing.assert_allclose(have, want, rtol=0, atol=1e-6)


def test_a_frame_is_ten_milliseconds():
    assert [len(log_mel(np.ones(count), 80)) for count in (201, 320, 16_000, 16_001)] == [1, 2, 100, 100]


@pytest.mark.skipif(not SPEECH.exists(), reason="the recordings are not on this machine")
def test_real_speech_is_whispers():
    paths = sorted(SPEECH.glob("*.wav"))
    assert len(paths) == 10
    for path in paths:
        padded, want = theirs(load(path), 80)
        np.testing.assert_allclose(log_mel(padded, 80), want, rtol=0, atol=1e-6)
