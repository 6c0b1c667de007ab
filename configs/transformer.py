"""The Transformer (Vaswani et al. 2017): a tiny one that trains on a CPU, and the published sizes."""

from configs.recipe import DOCSTRINGS, SHORT_VOCABULARY, Preset, both_sides, published, short, small
from transformer.data.text.config import TextConfig
from transformer.models.transformer import TransformerConfig
from transformer.objectives.seq2seq import Seq2Seq
from transformer.training.experiment import Experiment
from transformer.training.optimizer import OptimizerConfig


@Preset
def transformer_python() -> Experiment:
    """A small Transformer that sums up functions of Python's standard library in a line; minutes on a CPU."""
    model = TransformerConfig(vocab_size=SHORT_VOCABULARY, **both_sides(width=128, num_layers=2, num_heads=4))
    return short(model, Seq2Seq(target_len=72), data=DOCSTRINGS, batch_size=8, seq_len=256)


@Preset
def transformer_multi30k() -> Experiment:
    """A small Transformer that translates the captions of Multi30k: give it their folder with --data.path."""
    sizes = both_sides(width=128, num_layers=4, num_heads=4)
    model = TransformerConfig(vocab_size=4096, dropout=0.1, **sizes)
    data = TextConfig(fields=("en", "de"), tokenizer="bpe")
    return small(model, Seq2Seq(), data=data, learning_rate=1e-2, steps=3000, batch_size=16, seq_len=128)


@Preset
def transformer_base() -> Experiment:
    """The base Transformer, 65M parameters, on WMT 2014 English to German."""
    return _published(TransformerConfig(), steps=100_000)


@Preset
def transformer_big() -> Experiment:
    """The big Transformer, 213M parameters, on WMT 2014 English to German."""
    model = TransformerConfig(dropout=0.3, **both_sides(width=1024, num_layers=6, num_heads=16))
    return _published(model, steps=300_000)


def _published(model: TransformerConfig, *, steps: int) -> Experiment:
    """Section 5: Adam, width^-0.5 * min(step^-0.5, step * 4000^-1.5), about 25,000 tokens of each language a batch."""
    warmup = 4000
    optimizer = OptimizerConfig(
        learning_rate=(model.width * warmup) ** -0.5,
        schedule="inverse_sqrt",
        warmup_steps=warmup,
        weight_decay=0.0,
        b2=0.98,
        epsilon=1e-9,
        clip_norm=None,
    )
    data = TextConfig(tfds="wmt14_translate/de-en", fields=("en", "de"), tokenizer="bpe")
    return published(model, Seq2Seq(), optimizer, steps=steps, batch_size=100, seq_len=256, data=data)
