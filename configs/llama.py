"""LLaMA 1, 2 and 3, Mistral, Qwen2 and Qwen3: a tiny one that trains on a CPU, and the published sizes."""

from typing import Any

from configs.recipe import PYTHON_VOCABULARY, Preset, published, small
from transformer.data.text.config import TextConfig
from transformer.layers.positions import Llama3Scaling
from transformer.models.decoder import DecoderConfig
from transformer.models.llama import LlamaConfig
from transformer.objectives.causal_lm import CausalLM
from transformer.training.experiment import Experiment
from transformer.training.optimizer import OptimizerConfig


@Preset
def llama_python() -> Experiment:
    """A small LLaMA on the source of Python's standard library; minutes on a CPU."""
    model = LlamaConfig(
        vocab_size=PYTHON_VOCABULARY,
        context_length=256,
        width=192,
        num_layers=4,
        num_heads=4,
        num_kv_heads=2,
        head_width=48,
        mlp_width=512,
        rotary_base=10_000.0,
        tie_embeddings=True,
    )
    return small(model, CausalLM())


@Preset
def llama_7b() -> Experiment:
    """LLaMA 7B (Touvron et al. 2023)."""
    return _llama1(width=4096, num_layers=32, num_heads=32, mlp_width=11008, learning_rate=3e-4, tokens=1e12)


@Preset
def llama_13b() -> Experiment:
    """LLaMA 13B."""
    return _llama1(width=5120, num_layers=40, num_heads=40, mlp_width=13824, learning_rate=3e-4, tokens=1e12)


@Preset
def llama_33b() -> Experiment:
    """LLaMA 33B."""
    return _llama1(width=6656, num_layers=60, num_heads=52, mlp_width=17920, learning_rate=1.5e-4, tokens=1.4e12)


@Preset
def llama_65b() -> Experiment:
    """LLaMA 65B."""
    return _llama1(width=8192, num_layers=80, num_heads=64, mlp_width=22016, learning_rate=1.5e-4, tokens=1.4e12)


@Preset
def llama2_7b() -> Experiment:
    """LLaMA 2 7B (Touvron et al. 2023b)."""
    return _llama2(width=4096, num_layers=32, num_heads=32, num_kv_heads=32, mlp_width=11008, learning_rate=3e-4)


@Preset
def llama2_13b() -> Experiment:
    """LLaMA 2 13B."""
    return _llama2(width=5120, num_layers=40, num_heads=40, num_kv_heads=40, mlp_width=13824, learning_rate=3e-4)


@Preset
def llama2_70b() -> Experiment:
    """LLaMA 2 70B, grouped-query attention."""
    return _llama2(width=8192, num_layers=80, num_heads=64, num_kv_heads=8, mlp_width=28672, learning_rate=1.5e-4)


@Preset
def llama3_8b() -> Experiment:
    """LLaMA 3 8B (Grattafiori et al. 2024)."""
    return _llama3(width=4096, num_layers=32, num_heads=32, mlp_width=14336, learning_rate=3e-4)


@Preset
def llama3_70b() -> Experiment:
    """LLaMA 3 70B."""
    return _llama3(width=8192, num_layers=80, num_heads=64, mlp_width=28672, learning_rate=1.5e-4)


@Preset
def llama3_1_8b() -> Experiment:
    """LLaMA 3.1 8B: the rotary frequencies stretched to a context of 131,072; give --train.seq-len what you can."""
    return _llama3(width=4096, num_layers=32, num_heads=32, mlp_width=14336, learning_rate=3e-4, stretched=8.0)


@Preset
def mistral_7b() -> Experiment:
    """Mistral 7B (Jiang et al. 2023), window of 4,096; its training was not published, so LLaMA 2's stands in."""
    model = LlamaConfig(
        vocab_size=32000,
        context_length=32768,
        width=4096,
        num_layers=32,
        num_heads=32,
        num_kv_heads=8,
        head_width=128,
        mlp_width=14336,
        rotary_base=10_000.0,
        window=4096,
    )
    return pretrained(model, learning_rate=3e-4, tokens=2e12, seq_len=8192)


@Preset
def qwen2_0_5b() -> Experiment:
    """Qwen2 0.5B (Yang et al. 2024); its training was not published in detail, so LLaMA 2's stands in."""
    return _qwen2(width=896, num_layers=24, num_heads=14, num_kv_heads=2, mlp_width=4864, vocab_size=151936, tied=True)


@Preset
def qwen2_1_5b() -> Experiment:
    """Qwen2 1.5B."""
    return _qwen2(width=1536, num_layers=28, num_heads=12, num_kv_heads=2, mlp_width=8960, vocab_size=151936, tied=True)


@Preset
def qwen2_7b() -> Experiment:
    """Qwen2 7B."""
    return _qwen2(
        width=3584, num_layers=28, num_heads=28, num_kv_heads=4, mlp_width=18944, vocab_size=152064, tied=False
    )


@Preset
def qwen3_0_6b() -> Experiment:
    """Qwen3 0.6B (Yang et al. 2025); its training was not published in detail, so LLaMA 2's stands in."""
    return _qwen3(width=1024, num_layers=28, num_heads=16, mlp_width=3072, tied=True)


@Preset
def qwen3_1_7b() -> Experiment:
    """Qwen3 1.7B."""
    return _qwen3(width=2048, num_layers=28, num_heads=16, mlp_width=6144, tied=True)


@Preset
def qwen3_4b() -> Experiment:
    """Qwen3 4B."""
    return _qwen3(width=2560, num_layers=36, num_heads=32, mlp_width=9728, tied=True)


@Preset
def qwen3_8b() -> Experiment:
    """Qwen3 8B."""
    return _qwen3(width=4096, num_layers=36, num_heads=32, mlp_width=12288, tied=False)


def _llama1(*, learning_rate: float, tokens: float, num_heads: int, **sizes: int) -> Experiment:
    """Touvron et al. 2023, table 2: a context of 2,048, batches of 4M tokens."""
    all_sizes = _sizes(num_heads=num_heads, num_kv_heads=num_heads, **sizes)
    model = LlamaConfig(vocab_size=32000, context_length=2048, norm_epsilon=1e-6, rotary_base=10_000.0, **all_sizes)
    return pretrained(model, learning_rate=learning_rate, tokens=tokens, seq_len=2048)


def _llama2(*, learning_rate: float, **sizes: int) -> Experiment:
    """Touvron et al. 2023b, section 2.2: a context of 4,096, 2T tokens in batches of 4M."""
    model = LlamaConfig(vocab_size=32000, context_length=4096, rotary_base=10_000.0, **_sizes(**sizes))
    return pretrained(model, learning_rate=learning_rate, tokens=2e12, seq_len=4096)


def _llama3(*, learning_rate: float, stretched: float | None = None, **sizes: int) -> Experiment:
    """Grattafiori et al. 2024, table 3: 15T tokens, a warmup of 8,000 updates, a decay to a hundredth.

    The paper's batch grows from 4M to 16M tokens; here it has 4M throughout.
    """
    scaling, context = None, 8192
    if stretched is not None:
        scaling = Llama3Scaling(
            factor=stretched, low_frequency_factor=1.0, high_frequency_factor=4.0, original_context=context
        )
        context = 131_072
    model = LlamaConfig(context_length=context, rotary_scaling=scaling, **_sizes(num_kv_heads=8, **sizes))
    return pretrained(
        model, learning_rate=learning_rate, tokens=15e12, seq_len=8192, warmup_steps=8000, final_fraction=0.01
    )


def _qwen2(*, vocab_size: int, tied: bool, **sizes: int) -> Experiment:
    model = LlamaConfig(
        vocab_size=vocab_size,
        context_length=32768,
        norm_epsilon=1e-6,
        rotary_base=1e6,
        attention_biases="qkv",
        tie_embeddings=tied,
        **_sizes(**sizes),
    )
    return pretrained(model, learning_rate=3e-4, tokens=7e12, seq_len=4096)


def _qwen3(*, tied: bool, **sizes: int) -> Experiment:
    model = LlamaConfig(
        vocab_size=151936,
        context_length=40960,
        norm_epsilon=1e-6,
        rotary_base=1e6,
        head_norms=True,
        tie_embeddings=tied,
        **_sizes(num_kv_heads=8, head_width=128, **sizes),
    )
    return pretrained(model, learning_rate=3e-4, tokens=36e12, seq_len=4096)


def _sizes(
    *, width: int, num_layers: int, num_heads: int, num_kv_heads: int, mlp_width: int, head_width: int | None = None
) -> dict[str, Any]:
    """Returns a model's sizes by their fields' names; heads without a width of their own are as wide as the model."""
    return {
        "width": width,
        "num_layers": num_layers,
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "head_width": width // num_heads if head_width is None else head_width,
        "mlp_width": mlp_width,
    }


def pretrained(
    model: DecoderConfig,
    *,
    learning_rate: float,
    tokens: float,
    seq_len: int,
    warmup_steps: int = 2000,
    final_fraction: float = 0.1,
) -> Experiment:
    """AdamW with b2 0.95, decay 0.1, clipping at 1, a cosine, batches of 4M tokens; the corpus is yours to give."""
    batch_size = 2**22 // seq_len
    optimizer = OptimizerConfig(
        learning_rate=learning_rate,
        schedule="cosine",
        warmup_steps=warmup_steps,
        final_fraction=final_fraction,
        weight_decay=0.1,
        b2=0.95,
        epsilon=1e-5,
    )
    return published(
        model,
        CausalLM(chunk=128),
        optimizer,
        steps=tokens / (batch_size * seq_len),
        batch_size=batch_size,
        seq_len=seq_len,
        data=TextConfig(tokenizer="bpe"),
    )
