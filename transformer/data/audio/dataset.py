"""Datasets of recordings with transcripts, and a tokenizer."""

import dataclasses
from pathlib import Path

from transformer.data.audio.augmentation import Augmentation
from transformer.data.audio.config import AudioConfig
from transformer.data.audio.records import SpeechReading, SpeechRecords
from transformer.data.audio.source import SoundSource
from transformer.data.audio.sources import open_sources
from transformer.data.audio.tones import FRAMES
from transformer.data.damaged import Damaged
from transformer.data.dataset import About
from transformer.data.records import JoinedRecords, Record
from transformer.data.splits import digest
from transformer.data.tokenized import TokenizedDataset
from transformer.errors import UserError
from transformer.tokenizers.kinds import check_vocabulary, make_tokenizer
from transformer.tokenizers.tokenizer import Tokenizer
from transformer.tokenizers.training_text import TrainingText, up_to
from transformer.tokenizers.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class SpeechDataset(TokenizedDataset):
    """Recordings with transcripts."""

    def transcript(self, record: Record) -> str:
        """Returns what is said in a record, as its tokens have it."""
        return self.tokenizer.decode(record["tokens"][record["segment_ids"] > 0].tolist())

    def show(self, record: Record) -> tuple[str, ...]:
        return (self.transcript(record),)


def open_audio(
    config: AudioConfig,
    reading: SpeechReading,
    *,
    vocab_size: int | None,
    input_size: tuple[int, ...] = (),
    tokenizer: Tokenizer | None = None,
    whole: bool = False,
) -> SpeechDataset:
    """Opens the recordings that a config names; arguments and errors as `kinds.open_dataset`'s."""
    if len(input_size) != 2 or vocab_size is None:
        raise UserError("--data is audio and the model hears none: choose a preset of another model or other data")
    frames, bins = input_size
    if config.sources == ("tones",) and frames < FRAMES:
        raise UserError(
            f"--model.encoder-places {frames // 2}: clips of tones have up to {FRAMES} frames: give {FRAMES // 2}"
        )
    train, validation = open_sources(config, whole=whole)
    if tokenizer is None:
        source = validation if train is None else train
        said = TrainingText(lambda: [source.fingerprint], lambda size: up_to(size, source.texts()))
        tokenizer = make_tokenizer(config.tokenizer, vocab_size, said, Path(config.cache_dir).expanduser())
    check_vocabulary(tokenizer, vocab_size)
    contents = [source.fingerprint for source in (train, validation) if source is not None]
    left_out = Path(config.cache_dir).expanduser() / "left-out" / f"{digest(contents)}.txt"
    damaged = Damaged(left_out if config.skip_damaged else None)

    def records(source: SoundSource, augmentation: Augmentation | None = None) -> SpeechRecords:
        return SpeechRecords(source, (frames, bins), reading, damaged, tokenizer, augmentation=augmentation)

    [name] = config.sources
    identity = {
        "sources": {name: digest(contents)},
        "validation_fraction": config.validation_fraction,
        "tokenizer": tokenizer.fingerprint,
    }
    return SpeechDataset(
        train=() if train is None else (records(train, Augmentation(config)),),
        weights=() if train is None else (1.0,),
        validation=JoinedRecords([records(validation)]),
        fingerprint=digest([*contents, tokenizer.fingerprint]),
        about=About(identity, _summary(train, validation), notes=damaged.notes),
        tokenizer=tokenizer,
        vocabulary=Vocabulary.of(tokenizer),
    )


def _summary(train: SoundSource | None, validation: SoundSource) -> str:
    of_training = "" if train is None else f"{len(train):,} recordings to train on, "
    return f"{of_training}{len(validation):,} to validate"
