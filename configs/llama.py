"""LLaMA 1, 2 and 3, Mistral, Qwen2 and Qwen3: a tiny one that trains on a CPU, and the published sizes."""

from configs.recipe import PYTHON_VOCABULARY, published, small
from transformer.data.text.config import TextConfig
from transformer.layers.positions import Llama3Scaling
from transformer.models.llama import LlamaConfig
from transformer.objectives.causal_lm import CausalLM
from transformer.training.experiment import Experiment
from transformer.training.optimizer import OptimizerConfig


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
    return small("llama-python", model, CausalLM())


def llama_7b() -> Experiment:
    """LLaMA 7B (Touvron et al. 2023)."""
    return _llama1("llama-7b", 4096, 32, 32, 11008, learning_rate=3e-4, tokens=1e12)


def llama_13b() -> Experiment:
    """LLaMA 13B."""
    return _llama1("llama-13b", 5120, 40, 40, 13824, learning_rate=3e-4, tokens=1e12)


def llama_33b() -> Experiment:
    """LLaMA 33B."""
    return _llama1("llama-33b", 6656, 60, 52, 17920, learning_rate=1.5e-4, tokens=1.4e12)


def llama_65b() -> Experiment:
    """LLaMA 65B."""
    return _llama1("llama-65b", 8192, 80, 64, 22016, learning_rate=1.5e-4, tokens=1.4e12)


def llama2_7b() -> Experiment:
    """LLaMA 2 7B (Touvron et al. 2023b)."""
    return _llama2("llama2-7b", 4096, 32, 32, 32, 11008, learning_rate=3e-4)


def llama2_13b() -> Experiment:
    """LLaMA 2 13B."""
    return _llama2("llama2-13b", 5120, 40, 40, 40, 13824, learning_rate=3e-4)


def llama2_70b() -> Experiment:
    """LLaMA 2 70B, grouped-query attention."""
    return _llama2("llama2-70b", 8192, 80, 64, 8, 28672, learning_rate=1.5e-4)


def llama3_8b() -> Experiment:
    """LLaMA 3 8B (Grattafiori et al. 2024)."""
    return _llama3("llama3-8b", 4096, 32, 32, 14336, learning_rate=3e-4)


def llama3_70b() -> Experiment:
    """LLaMA 3 70B."""
    return _llama3("llama3-70b", 8192, 80, 64, 28672, learning_rate=1.5e-4)


def llama3_1_8b() -> Experiment:
    """LLaMA 3.1 8B: the rotary frequencies stretched to a context of 131,072; give --train.seq-len what you can."""
    return _llama3("llama3-1-8b", 4096, 32, 32, 14336, learning_rate=3e-4, stretched=8.0)


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
    return _pretrained("mistral-7b", model, learning_rate=3e-4, tokens=2e12, seq_len=8192)


def qwen2_0_5b() -> Experiment:
    """Qwen2 0.5B (Yang et al. 2024); its training was not published in detail, so LLaMA 2's stands in."""
    return _qwen2("qwen2-0-5b", 896, 24, 14, 2, 4864, vocab_size=151936, tied=True)


def qwen2_1_5b() -> Experiment:
    """Qwen2 1.5B."""
    return _qwen2("qwen2-1-5b", 1536, 28, 12, 2, 8960, vocab_size=151936, tied=True)


def qwen2_7b() -> Experiment:
    """Qwen2 7B."""
    return _qwen2("qwen2-7b", 3584, 28, 28, 4, 18944, vocab_size=152064, tied=False)


def qwen3_0_6b() -> Experiment:
    """Qwen3 0.6B (Yang et al. 2025); its training was not published in detail, so LLaMA 2's stands in."""
    return _qwen3("qwen3-0-6b", 1024, 28, 16, 3072, tied=True)


def qwen3_1_7b() -> Experiment:
    """Qwen3 1.7B."""
    return _qwen3("qwen3-1-7b", 2048, 28, 16, 6144, tied=True)


def qwen3_4b() -> Experiment:
    """Qwen3 4B."""
    return _qwen3("qwen3-4b", 2560, 36, 32, 9728, tied=True)


def qwen3_8b() -> Experiment:
    """Qwen3 8B."""
    return _qwen3("qwen3-8b", 4096, 36, 32, 12288, tied=False)


def _llama1(
    name: str, width: int, layers: int, heads: int, mlp_width: int, *, learning_rate: float, tokens: float
) -> Experiment:
    """Touvron et al. 2023, table 2: a context of 2,048, batches of 4M tokens."""
    model = LlamaConfig(
        vocab_size=32000,
        context_length=2048,
        width=width,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=heads,
        head_width=width // heads,
        mlp_width=mlp_width,
        norm_epsilon=1e-6,
        rotary_base=10_000.0,
    )
    return _pretrained(name, model, learning_rate=learning_rate, tokens=tokens, seq_len=2048)


def _llama2(
    name: str, width: int, layers: int, heads: int, kv_heads: int, mlp_width: int, *, learning_rate: float
) -> Experiment:
    """Touvron et al. 2023b, section 2.2: a context of 4,096, 2T tokens in batches of 4M."""
    model = LlamaConfig(
        vocab_size=32000,
        context_length=4096,
        width=width,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_width=width // heads,
        mlp_width=mlp_width,
        rotary_base=10_000.0,
    )
    return _pretrained(name, model, learning_rate=learning_rate, tokens=2e12, seq_len=4096)


def _llama3(
    name: str,
    width: int,
    layers: int,
    heads: int,
    mlp_width: int,
    *,
    learning_rate: float,
    stretched: float | None = None,
) -> Experiment:
    """Grattafiori et al. 2024, table 3: 15T tokens, a warmup of 8,000 updates, a decay to a hundredth.

    The paper's batch grows from 4M to 16M tokens; here it has 4M throughout.
    """
    model = LlamaConfig(
        context_length=131_072 if stretched else 8192,
        width=width,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=8,
        head_width=width // heads,
        mlp_width=mlp_width,
        rotary_scaling=Llama3Scaling(stretched, 1.0, 4.0, 8192) if stretched else None,
    )
    return _pretrained(
        name,
        model,
        learning_rate=learning_rate,
        tokens=15e12,
        seq_len=8192,
        warmup_steps=8000,
        final_fraction=0.01,
    )


def _qwen2(
    name: str, width: int, layers: int, heads: int, kv_heads: int, mlp_width: int, *, vocab_size: int, tied: bool
) -> Experiment:
    model = LlamaConfig(
        vocab_size=vocab_size,
        context_length=32768,
        width=width,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_width=width // heads,
        mlp_width=mlp_width,
        norm_epsilon=1e-6,
        rotary_base=1e6,
        attention_biases="qkv",
        tie_embeddings=tied,
    )
    return _pretrained(name, model, learning_rate=3e-4, tokens=7e12, seq_len=4096)


def _qwen3(name: str, width: int, layers: int, heads: int, mlp_width: int, *, tied: bool) -> Experiment:
    model = LlamaConfig(
        vocab_size=151936,
        context_length=40960,
        width=width,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=8,
        head_width=128,
        mlp_width=mlp_width,
        norm_epsilon=1e-6,
        rotary_base=1e6,
        head_norms=True,
        tie_embeddings=tied,
    )
    return _pretrained(name, model, learning_rate=3e-4, tokens=36e12, seq_len=4096)


def _pretrained(
    name: str,
    model: LlamaConfig,
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
        name,
        model,
        CausalLM(chunk=128),
        optimizer,
        steps=tokens / (batch_size * seq_len),
        batch_size=batch_size,
        seq_len=seq_len,
        data=TextConfig(tokenizer="bpe"),
    )


PRESETS = (
    llama_python,
    llama_7b,
    llama_13b,
    llama_33b,
    llama_65b,
    llama2_7b,
    llama2_13b,
    llama2_70b,
    llama3_8b,
    llama3_70b,
    llama3_1_8b,
    mistral_7b,
    qwen2_0_5b,
    qwen2_1_5b,
    qwen2_7b,
    qwen3_0_6b,
    qwen3_1_7b,
    qwen3_4b,
    qwen3_8b,
)
