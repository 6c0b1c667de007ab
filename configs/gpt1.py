"""GPT (Radford et al. 2018): a tiny one that trains on a CPU, and the published one."""

from configs.recipe import PYTHON_VOCABULARY, Preset, published, small
from transformer.data.text.config import TextConfig
from transformer.models.gpt1 import GPT1Config
from transformer.objectives.causal_lm import CausalLM
from transformer.training.experiment import Experiment
from transformer.training.optimizer import OptimizerConfig


@Preset
def gpt1_python() -> Experiment:
    """A small GPT of 2018 on the source of Python's standard library; minutes on a CPU."""
    model = GPT1Config(
        vocab_size=PYTHON_VOCABULARY, context_length=256, width=192, num_layers=4, num_heads=4, dropout=0.0
    )
    return small(model, CausalLM(), learning_rate=3e-3)


@Preset
def gpt1() -> Experiment:
    """GPT (2018), 117M parameters."""
    optimizer = OptimizerConfig(
        learning_rate=2.5e-4,
        schedule="cosine",
        warmup_steps=2000,
        final_fraction=0.0,
        weight_decay=0.01,
        b2=0.999,
    )
    # Section 4.1: 100 epochs of 64 sequences of 512 tokens; the BooksCorpus (about a billion tokens) is not shared any
    # more, so give --data.path.
    data = TextConfig(tokenizer="bpe")
    return published(GPT1Config(), CausalLM(chunk=128), optimizer, steps=3e6, batch_size=64, seq_len=512, data=data)
