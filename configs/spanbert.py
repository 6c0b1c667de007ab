"""SpanBERT (Joshi et al. 2020): a tiny one that trains on a CPU, and the published sizes."""

from configs.recipe import SHORT_ENCODER, Preset, linear, published, short
from transformer.models.spanbert import SpanBertConfig
from transformer.objectives.masked_lm import MaskedLM
from transformer.training.experiment import Experiment


@Preset
def spanbert_python() -> Experiment:
    """A small SpanBERT on the source of Python's standard library: masked spans and their boundaries; minutes."""
    model = SpanBertConfig(**SHORT_ENCODER, boundary_width=64)
    return short(model, MaskedLM(choose="spans", boundary=True), steps=1800)


@Preset
def spanbert_base() -> Experiment:
    """SpanBERT base, 108M parameters."""
    return _published(width=768, num_layers=12, num_heads=12)


@Preset
def spanbert_large() -> Experiment:
    """SpanBERT large, 333M parameters."""
    return _published(width=1024, num_layers=24, num_heads=16)


def _published(*, width: int, num_layers: int, num_heads: int) -> Experiment:
    """Section 4.2: 2.4 million updates of 256 sequences of 512 tokens, a single sequence each."""
    model = SpanBertConfig(width=width, num_layers=num_layers, num_heads=num_heads, mlp_width=4 * width)
    optimizer = linear(learning_rate=1e-4, warmup_steps=10_000, weight_decay=0.1, b2=0.999, epsilon=1e-8)
    objective = MaskedLM(choose="spans", boundary=True)
    return published(model, objective, optimizer, steps=2.4e6, batch_size=256, seq_len=512)
