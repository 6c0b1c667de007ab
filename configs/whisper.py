"""Whisper (Radford et al. 2022): a small one that hears dialled digits on a CPU, and the published sizes."""

from configs.recipe import Preset, both_sides, small
from transformer.checkpoint import CheckpointConfig
from transformer.data.audio.config import AudioConfig
from transformer.layers.execution import Execution
from transformer.models.whisper import WhisperConfig
from transformer.objectives.transcription import Transcription
from transformer.training.experiment import Experiment, TrainConfig
from transformer.training.optimizer import OptimizerConfig


@Preset
def whisper_tones() -> Experiment:
    """A small Whisper that hears digits as chords of two tones."""
    model = WhisperConfig(
        **both_sides(width=64, num_layers=2, num_heads=4), vocab_size=384, decoder_start_id=1, encoder_places=60,
        context_length=16,
    )  # fmt: skip
    return small(
        model, Transcription(), data=AudioConfig(), learning_rate=5e-3, batch_size=32, seq_len=8, eval_batches=None
    )


@Preset
def whisper_tiny() -> Experiment:
    """Whisper tiny, 38M parameters, on LibriSpeech listed in a file (--data.path)."""
    return _published(width=384, num_layers=4, num_heads=6, learning_rate=1.5e-3)


@Preset
def whisper_base() -> Experiment:
    """Whisper base, 73M parameters, on LibriSpeech listed in a file (--data.path)."""
    return _published(width=512, num_layers=6, num_heads=8, learning_rate=1e-3)


@Preset
def whisper_small() -> Experiment:
    """Whisper small, 242M parameters, on LibriSpeech listed in a file (--data.path)."""
    return _published(width=768, num_layers=12, num_heads=12, learning_rate=5e-4)


@Preset
def whisper_medium() -> Experiment:
    """Whisper medium, 764M parameters, on LibriSpeech listed in a file (--data.path)."""
    return _published(width=1024, num_layers=24, num_heads=16, learning_rate=2.5e-4)


@Preset
def whisper_large() -> Experiment:
    """Whisper large, 1.54B parameters, on LibriSpeech listed in a file (--data.path)."""
    return _published(width=1280, num_layers=32, num_heads=20, learning_rate=1.75e-4)


@Preset
def whisper_large_v3() -> Experiment:
    """Whisper large-v3, 1.54B parameters, of 128 mel bins, on LibriSpeech listed in a file (--data.path)."""
    return _published(width=1280, num_layers=32, num_heads=20, learning_rate=1.75e-4, bins=128, vocab_size=51866)


def _published(
    *, width: int, num_layers: int, num_heads: int, learning_rate: float, bins: int = 80, vocab_size: int = 51865
) -> Experiment:
    """Radford et al. 2022, appendix F: AdamW, 256 segments of 30 seconds an update, a rate that falls to 0.

    Their 680,000 hours were not published: LibriSpeech's 960 take their place. --data.tokenizer names a released
    tokenizer.json; without one, bytes are said.
    """
    sizes = both_sides(width=width, num_layers=num_layers, num_heads=num_heads)
    model = WhisperConfig(**sizes, bins=bins, vocab_size=vocab_size)
    return Experiment(
        name="",  # the preset's
        model=model,
        objective=Transcription(),
        data=AudioConfig(path="librispeech.tsv", skip_damaged=True, workers=8),
        optimizer=OptimizerConfig(
            learning_rate=learning_rate, warmup_steps=2048, b2=0.98, epsilon=1e-6, weight_decay=0.1,
            schedule="linear", final_fraction=0.0,
        ),
        train=TrainConfig(steps=1_048_576, batch_size=256, seq_len=448, eval_every=5000, eval_batches=20),
        checkpoint=CheckpointConfig(every=5000),
        execution=Execution(dtype="bfloat16", remat="auto"),
    )  # fmt: skip
