"""DistilBERT (Sanh et al. 2019): a tiny one that trains on a CPU, and the published size."""

from configs.recipe import SHORT_ENCODER, Preset, linear, published, short
from transformer.models.distilbert import DistilBertConfig
from transformer.objectives.masked_lm import MaskedLM
from transformer.training.experiment import Experiment


@Preset
def distilbert_python() -> Experiment:
    """A small DistilBERT on the source of Python's standard library: masked words; minutes on a CPU."""
    model = DistilBertConfig(**SHORT_ENCODER)
    return short(model, MaskedLM(), steps=1800)


@Preset
def distilbert_base() -> Experiment:
    """DistilBERT base, 67M parameters, by its masked language model loss alone: there is no teacher here."""
    optimizer = linear(learning_rate=5e-4, warmup_steps=4000, weight_decay=0.0, b2=0.98, clip_norm=5.0)
    # Section 3: dynamic masks, no next sentence, batches of up to 4,000 sequences; its released code has the rest.
    return published(DistilBertConfig(), MaskedLM(), optimizer, steps=80_000, batch_size=4000, seq_len=512)
