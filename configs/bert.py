"""BERT (Devlin et al. 2019): a tiny one that trains on a CPU, and the published sizes."""

from configs.recipe import SHORT_ENCODER, STUDY_VOCABULARY, Preset, linear, published, short, study
from transformer.models.bert import BertConfig
from transformer.models.resizing import Shaping, scaled
from transformer.objectives.masked_lm import MaskedLM
from transformer.training.experiment import Experiment


@Preset
def bert_python() -> Experiment:
    """A small BERT on the source of Python's standard library: masked words and next sentence; minutes on a CPU."""
    model = BertConfig(**SHORT_ENCODER, head="pretraining")
    return short(model, MaskedLM(sentence="nsp"), steps=1800)


@Preset
def bert_scaling(width: int = 128) -> Experiment:
    """A BERT of a scaling study, of any width in multiples of 16, told masked words alone: minutes on a CPU.

    Until attention has learnt which of the learned positions are neighbours, masked words are guessed by frequency. In
    16 positions that takes half a million tokens, in 64 more than three. And more masks teach more a token (Wettig et
    al. 2023: 40 % of the words of a large model).
    """
    base = BertConfig(
        vocab_size=STUDY_VOCABULARY,
        context_length=16,
        width=128,
        num_layers=4,
        num_heads=8,
        mlp_width=512,
        dropout=0.0,
        attention_dropout=0.0,
        num_token_types=1,
    )
    return study(scaled(base, width, shaping=Shaping()), MaskedLM(rate=0.25), batch_size=64, seq_len=16)


@Preset
def bert_base() -> Experiment:
    """BERT base, 110M parameters."""
    return _published(width=768, num_layers=12, num_heads=12)


@Preset
def bert_large() -> Experiment:
    """BERT large, 335M parameters."""
    return _published(width=1024, num_layers=24, num_heads=16)


def _published(*, width: int, num_layers: int, num_heads: int) -> Experiment:
    """Appendix A.2: a million updates of 256 sequences, ten copies of the corpus with fixed masks.

    The paper reads 128 tokens a sequence for nine tenths of the updates; here all read 512.
    """
    model = BertConfig(width=width, num_layers=num_layers, num_heads=num_heads, mlp_width=4 * width, head="pretraining")
    optimizer = linear(learning_rate=1e-4, warmup_steps=10_000, b2=0.999)
    objective = MaskedLM(sentence="nsp", static_copies=10)
    return published(model, objective, optimizer, steps=1e6, batch_size=256, seq_len=512)
