"""Which recordings a run reads, and the transcripts that it learns to say of them."""

import dataclasses
import math
from typing import ClassVar, Literal, Self

from transformer import checks
from transformer.data.dataset import DataConfig
from transformer.paths import absolute


@dataclasses.dataclass(frozen=True)
class AudioConfig(DataConfig):
    """Recordings with their transcripts."""

    kind: ClassVar[str] = "audio"
    identity: ClassVar[tuple[str, ...]] = ("path", "embedded")
    paths: ClassVar[tuple[str, ...]] = ("path", "tokenizer")
    places: ClassVar[tuple[str, ...]] = (*paths, "cache_dir")

    path: str | None = None
    """A .tsv or .jsonl file whose rows have the path of a sound file (audio, path or file), from the file's own folder,
    and what is said in it (text or transcript). Overrides `embedded`."""
    embedded: Literal["tones"] = "tones"
    """What needs no files: `tones`, two to six digits, each a chord of two tones, in noise."""
    validation_fraction: float = 0.05
    """The part of the recordings (0 to 1) of `path` that are held out for validation."""
    speeds: tuple[float, ...] = ()
    """Speeds at one of which, at random, a recording is played in training, such as 0.9 1.0 1.1 (Ko et al. 2015), in
    hundredths; one at which it would be too long for the model is not taken."""
    noise: float = 0.0
    """Probability of white noise beside a recording in training."""
    noise_snr: tuple[float, float] = (10.0, 30.0)
    """Decibels, from and to, that the noise is below the recording."""
    frequency_masks: int = 0
    """Bands of mel bins that are hidden in a recording in training (SpecAugment: Park et al. 2019)."""
    frequency_mask_bins: int = 27
    """Mel bins of such a band, at most: F of the paper's policies for LibriSpeech."""
    time_masks: int = 0
    """Stretches of time that are hidden in a recording in training, likewise."""
    time_mask_frames: int = 100
    """Frames of 10 ms of such a stretch, at most: T of the paper's policies for LibriSpeech."""
    time_mask_share: float = 1.0
    """The share of a recording that such a stretch takes, at most: p of the paper."""
    tokenizer: str = "bytes"
    """Tokenizer of transcripts: `unigram` or `bpe` (SentencePiece, trained on them), `bytes`, or the path of a Hugging
    Face tokenizer.json or of a SentencePiece .model."""
    skip_damaged: bool = False
    """Leave out recordings that cannot be read, or that are too long for the model, in place of stopping: each is named
    once."""
    changed: bool = False
    """The recordings are meant to be others than those that the run began with. Not recorded: it holds for one
    start."""
    cache_dir: str = "~/.cache/transformer"
    """The folder that keeps trained tokenizers; safe to delete."""
    workers: int = 0
    """Processes of each host that make training batches; 0: a thread of the training process. The batches are the
    same."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.within(self, "[0, 1)", "validation_fraction")
        checks.within(self, "[0, 1]", "noise", "time_mask_share")
        checks.at_least(self, 0, "frequency_masks", "frequency_mask_bins", "time_masks", "time_mask_frames")
        rising = all(map(math.isfinite, self.noise_snr)) and self.noise_snr[0] <= self.noise_snr[1]
        checks.rule(self, "noise_snr", rising, "give decibels, rising")
        speeds = all(0.5 <= speed <= 2 and round(speed, 2) == speed for speed in self.speeds)
        checks.rule(self, "speeds", speeds, "give speeds from 0.5 to 2, in hundredths")

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.embedded if self.path is None else self.path,)

    def flag(self, source: str) -> str:
        return f"data.embedded {source}" if self.path is None else f"data.path {source}"

    def absolute(self) -> Self:
        return dataclasses.replace(self, path=None if self.path is None else absolute(self.path))
