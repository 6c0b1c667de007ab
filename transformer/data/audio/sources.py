"""Sources: from a config of recordings to those of its two splits."""

from pathlib import Path

from transformer.data.audio.config import AudioConfig
from transformer.data.audio.source import Manifest, SoundSource
from transformer.data.audio.tones import Tones
from transformer.data.listing import Listings
from transformer.data.source import divided
from transformer.errors import UserError


def open_sources(
    config: AudioConfig, *, whole: bool = False, listings: Listings | None = None
) -> tuple[SoundSource | None, SoundSource]:
    """Returns the training recordings and the validation recordings.

    Args:
      config: names them.
      whole: all are to validate on, and there are none to train on.
      listings: those of its cache; None: they are read there.

    Raises:
      UserError: there are none, or something about them that a person can mend.
    """
    if config.path is None:
        return None if whole else Tones("train"), Tones("validation")
    path = Path(config.path).expanduser()
    if not path.is_file() or path.suffix not in (".tsv", ".jsonl"):
        raise UserError(f"--data.path {path}: give a .tsv or .jsonl file that lists sound files and transcripts")
    manifest = Manifest(path, listings or Listings(config.cache_dir))
    return (None, manifest) if whole else divided(manifest, config.validation_fraction, "recordings")
