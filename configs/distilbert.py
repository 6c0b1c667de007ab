"""DistilBERT (Sanh et al. 2019): a tiny one that trains on a CPU, and the published size."""

from configs.recipe import SHORT_VOCABULARY, published, short
from transformer.models.distilbert import DistilBertConfig
from transformer.objectives.masked_lm import MaskedLM
from transformer.training.experiment import Experiment
from transformer.training.optimizer import OptimizerConfig


def distilbert_python() -> Experiment:
    """A small DistilBERT on the source of Python's standard library: masked words; minutes on a CPU."""
    model = DistilBertConfig(
        vocab_size=SHORT_VOCABULARY,
        context_length=256,
        width=128,
        num_layers=2,
        num_heads=4,
        mlp_width=512,
        dropout=0.0,
        attention_dropout=0.0,
    )
    return short("distilbert-python", model, MaskedLM(), steps=1800)


def distilbert_base() -> Experiment:
    """DistilBERT base, 67M parameters, by its masked language model loss alone: there is no teacher here."""
    optimizer = OptimizerConfig(
        learning_rate=5e-4,
        schedule="linear",
        warmup_steps=4000,
        final_fraction=0.0,
        weight_decay=0.0,
        b2=0.98,
        epsilon=1e-6,
        clip_norm=5.0,
    )
    # Section 3: dynamic masks, no next sentence, batches of up to 4,000 sequences; its released code has the rest.
    return published(
        "distilbert-base", DistilBertConfig(), MaskedLM(), optimizer, steps=80_000, batch_size=4000, seq_len=512
    )


PRESETS = (distilbert_python, distilbert_base)
