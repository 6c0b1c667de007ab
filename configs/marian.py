"""Marian (Junczys-Dowmunt et al. 2018): a tiny one that trains on a CPU, and that of the OPUS-MT models."""

from configs.recipe import DOCSTRINGS, SHORT_VOCABULARY, Preset, both_sides, published, short
from transformer.data.text.config import TextConfig
from transformer.models.marian import MarianConfig
from transformer.objectives.seq2seq import Seq2Seq
from transformer.training.experiment import Experiment
from transformer.training.optimizer import OptimizerConfig


@Preset
def marian_python() -> Experiment:
    """A small Marian that sums up functions of Python's standard library in a line; minutes on a CPU."""
    model = MarianConfig(
        vocab_size=SHORT_VOCABULARY,
        decoder_start_id=0,
        context_length=256,
        **both_sides(width=128, num_layers=2, num_heads=4),
    )
    return short(model, Seq2Seq(target_len=72), data=DOCSTRINGS, batch_size=8, seq_len=256)


@Preset
def marian_base() -> Experiment:
    """The Transformer of the OPUS-MT models (Tiedemann and Thottingal 2020), 74M parameters, English to German."""
    # Marian's own settings for such a model ("transformer-base" in its task presets); OPUS is not in TFDS as a whole,
    # so a WMT corpus stands in: give --data.path for yours.
    optimizer = OptimizerConfig(
        learning_rate=3e-4,
        schedule="inverse_sqrt",
        warmup_steps=16_000,
        weight_decay=0.0,
        b2=0.98,
        epsilon=1e-9,
        clip_norm=5.0,
    )
    data = TextConfig(tfds="wmt14_translate/de-en", fields=("en", "de"), tokenizer="unigram")
    # A vocabulary made here has <pad>, which begins a decoder's text, at 0.
    model = MarianConfig(decoder_start_id=0)
    return published(model, Seq2Seq(), optimizer, steps=300_000, batch_size=100, seq_len=256, data=data)
