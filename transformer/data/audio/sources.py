"""Sources: from a config of recordings to those of its two splits."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transformer.data import tfds_datasets
from transformer.data.audio.config import AudioConfig
from transformer.data.audio.sound import resampled
from transformer.data.audio.source import Clip, Manifest, Part, SoundSource
from transformer.data.audio.tones import Tones
from transformer.data.splits import digest, held_out
from transformer.errors import UserError


def open_sources(config: AudioConfig, *, whole: bool = False) -> tuple[list[SoundSource], list[SoundSource]]:
    """Returns what to train on and what to validate on, each of one source or more.

    Args:
      config: names them.
      whole: all are to validate on, and there is nothing to train on.

    Raises:
      UserError: there are none, or something about them that a person can mend.
    """
    if config.path is not None:
        manifest = _manifest(Path(config.path).expanduser())
        return ([], [manifest]) if whole else _split(manifest, config.validation_fraction)
    train, validation = _of_tfds(config.tfds, config.cache_dir) if config.tfds is not None else _tones()
    return [] if whole else train, validation


def _tones() -> tuple[list[SoundSource], list[SoundSource]]:
    return [Tones("train")], [Tones("validation")]


def _manifest(path: Path) -> Manifest:
    if not path.is_file() or path.suffix not in (".tsv", ".jsonl"):
        raise UserError(f"--data.path {path}: give a .tsv or .jsonl file that lists sound files and transcripts")
    return Manifest(path)


def _split(manifest: Manifest, fraction: float) -> tuple[list[SoundSource], list[SoundSource]]:
    """Returns two parts of a file: rows of one recording are in the same part."""
    held = held_out(manifest.keys, fraction)
    if not held.any() or held.all():
        raise UserError(
            f"{len(manifest)} recording(s), and --data.validation-fraction {fraction:g} of them leave none to train on "
            "or none to validate on: give more recordings, or another fraction"
        )
    return [Part(manifest, np.flatnonzero(~held))], [Part(manifest, np.flatnonzero(held))]


class TfdsSpeech(SoundSource):
    """A split of a TFDS dataset with the features speech and text, by random access."""

    def __init__(self, data: Any, name: str, rate: int, content: str):
        """An opened split.

        Args:
          data: TFDS's data source of the split.
          name: what people call it.
          rate: samples a second.
          content: what tells it from others.
        """
        self._data, self._name, self._rate, self._content = data, name, rate, content

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> Clip:
        row = self._data[index]
        samples = (np.asarray(row["speech"], np.float32) / 2**15).clip(-1, 1)  # of 16 bits, whatever holds them
        text = row["text"]
        transcript = text.decode() if isinstance(text, bytes) else str(text)
        return Clip(resampled(samples, self._rate), f"{self._name}, recording {index}", transcript)

    @property
    def fingerprint(self) -> str:
        return digest([self._content, str(len(self))])


def _of_tfds(dataset: str, cache_dir: str) -> tuple[list[SoundSource], list[SoundSource]]:
    """Returns the splits whose names begin with train, and those with dev or validation, or else with test."""
    folder = tfds_datasets.folder_of(cache_dir)
    builder = tfds_datasets.builder_of(dataset, folder)
    features = builder.info.features
    if lacking := [name for name in ("speech", "text") if name not in features]:
        raise UserError(f"TFDS dataset {dataset!r} has no feature {lacking[0]!r}; it has: {', '.join(features)}")
    tfds_datasets.prepare(builder, dataset, folder)
    splits = builder.info.splits

    def opened(*beginnings: str) -> list[SoundSource]:
        return [
            TfdsSpeech(
                builder.as_data_source(split),
                f"tfds:{dataset} {split}",
                features["speech"].sample_rate,
                f"{builder.info.full_name} {split} {splits[split].num_bytes}",
            )
            for split in _chosen(sorted(splits), beginnings)
        ]

    train, validation = opened("train"), opened("dev", "validation") or opened("test")
    if not (train and validation):
        raise UserError(
            f"TFDS dataset {dataset!r} has no splits both to train and to validate on; it has: {', '.join(splits)}"
        )
    return train, validation


def _chosen(splits: Sequence[str], beginnings: tuple[str, ...]) -> list[str]:
    return [split for split in splits if split.startswith(beginnings)]
