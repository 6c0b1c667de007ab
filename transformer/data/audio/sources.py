"""Sources: from a config of recordings to those of its two splits."""

from pathlib import Path

import numpy as np

from transformer.data.audio.config import AudioConfig
from transformer.data.audio.source import Manifest, Part, SoundSource
from transformer.data.audio.tones import Tones
from transformer.data.splits import held_out
from transformer.errors import UserError


def open_sources(config: AudioConfig, *, whole: bool = False) -> tuple[SoundSource | None, SoundSource]:
    """Returns the training recordings and the validation recordings.

    Args:
      config: names them.
      whole: all are to validate on, and there are none to train on.

    Raises:
      UserError: there are none, or something about them that a person can mend.
    """
    if config.path is None:
        return None if whole else Tones("train"), Tones("validation")
    manifest = _manifest(Path(config.path).expanduser())
    return (None, manifest) if whole else _split(manifest, config.validation_fraction)


def _manifest(path: Path) -> Manifest:
    if not path.is_file() or path.suffix not in (".tsv", ".jsonl"):
        raise UserError(f"--data.path {path}: give a .tsv or .jsonl file that lists sound files and transcripts")
    return Manifest(path)


def _split(manifest: Manifest, fraction: float) -> tuple[SoundSource, SoundSource]:
    """Returns two parts of a file: rows of one recording are in the same part."""
    held = held_out(manifest.keys, fraction)
    if not held.any() or held.all():
        raise UserError(
            f"{len(manifest)} recording(s), and --data.validation-fraction {fraction:g} of them leave none to train on "
            "or none to validate on: give more recordings, or another fraction"
        )
    return Part(manifest, np.flatnonzero(~held)), Part(manifest, np.flatnonzero(held))
