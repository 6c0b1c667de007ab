"""LLaMA: published sizes, what a window costs, impossible configs. (Numbers: tests/interop/test_llama.py.)"""

import dataclasses

import pytest

from transformer.errors import UserError
from transformer.models.llama import LlamaConfig

LLAMA1 = LlamaConfig(
    vocab_size=32000, context_length=2048, num_kv_heads=32, mlp_width=11008, norm_epsilon=1e-6, rotary_base=1e4
)
QWEN2 = LlamaConfig(vocab_size=152064, context_length=32768, norm_epsilon=1e-6, rotary_base=1e6, attention_biases="qkv")
QWEN3 = LlamaConfig(vocab_size=151936, context_length=40960, norm_epsilon=1e-6, rotary_base=1e6, head_norms=True)


@pytest.mark.parametrize(
    ("base", "fields", "count"),
    [
        (LLAMA1, {}, 6_738_415_616),
        (
            LLAMA1,
            {"width": 5120, "num_layers": 40, "num_heads": 40, "num_kv_heads": 40, "mlp_width": 13824},
            13_015_864_320,
        ),
        (
            LLAMA1,
            {"width": 8192, "num_layers": 80, "num_heads": 64, "num_kv_heads": 8, "mlp_width": 28672},
            68_976_648_192,
        ),
        (LlamaConfig(), {}, 8_030_261_248),
        (LlamaConfig(), {"width": 8192, "num_layers": 80, "num_heads": 64, "mlp_width": 28672}, 70_553_706_496),
        (
            LlamaConfig(),
            {"width": 2048, "num_layers": 16, "head_width": 64, "mlp_width": 8192, "tie_embeddings": True},
            1_235_814_400,
        ),
        (LlamaConfig(vocab_size=32000), {"window": 4096}, 7_241_732_096),
        (
            QWEN2,
            {
                "vocab_size": 151936, "width": 896, "num_layers": 24, "num_heads": 14, "num_kv_heads": 2,
                "head_width": 64, "mlp_width": 4864, "tie_embeddings": True,
            },
            494_032_768,
        ),
        (
            QWEN2,
            {"width": 3584, "num_layers": 28, "num_heads": 28, "num_kv_heads": 4, "mlp_width": 18944},
            7_615_616_512,
        ),
        (
            QWEN3,
            {"width": 1024, "num_layers": 28, "num_heads": 16, "mlp_width": 3072, "tie_embeddings": True},
            596_049_920,
        ),
        (QWEN3, {"num_layers": 36, "mlp_width": 12288}, 8_190_735_360),
    ],
    ids=[
        "llama 7B", "llama 13B", "llama 2 70B", "llama 3 8B", "llama 3 70B", "llama 3.2 1B", "mistral 7B",
        "qwen2 0.5B", "qwen2 7B", "qwen3 0.6B", "qwen3 8B",
    ],
)  # fmt: skip
def test_published_sizes(base, fields, count):
    assert dataclasses.replace(base, **fields).num_params() == count


def test_flops_count_the_window():
    config = LlamaConfig(num_layers=2, num_heads=6, num_kv_heads=2, head_width=10)
    narrow = dataclasses.replace(config, window=100)
    assert config.flops_per_example(700) - narrow.flops_per_example(700) == 12 * 2 * 60 * 700 * (700 - 100)
    assert narrow.flops_per_example(90) == config.flops_per_example(90)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_heads": 6, "num_kv_heads": 4}, "num_kv_heads 4 does not divide num_heads 6"),
        ({"head_width": 7}, "head_width is 7: rotary positions need an even one"),
        ({"window": 0}, "window is 0"),
        ({"attention_biases": "q"}, "unknown attention_biases 'q'; choose from: none, qkv, all"),
        ({"rotary_base": 0.0}, "rotary_base is 0.0"),
        ({"activation": "swiglu"}, "unknown activation 'swiglu'"),
        ({"num_labels": 0}, "num_labels is 0"),
    ],
)
def test_impossible_configs_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        LlamaConfig(**fields)
