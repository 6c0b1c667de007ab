"""T5: the published sizes, and how it starts. (Parity: tests/interop; the rest: test_encoder_decoder.py.)"""

import flax.linen as nn
import jax
import numpy as np
import pytest

from transformer.layers.execution import Execution
from transformer.layers.relative_bias import RelativeBias
from transformer.models.t5 import T5Config


def _config(width, layers, heads, mlp, head_width=64, *, vocab=32128, version=1):
    newer = {"activation": "gelu_tanh", "gated": True, "tie_embeddings": False} if version > 1 else {}
    return T5Config(
        vocab_size=vocab,
        width=width,
        num_encoder_layers=layers,
        num_decoder_layers=layers,
        num_heads=heads,
        head_width=head_width,
        mlp_width=mlp,
        **newer,
    )


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (_config(512, 6, 8, 2048), 60_506_624),
        (_config(768, 12, 12, 3072), 222_903_552),
        (_config(1024, 24, 16, 4096), 737_668_096),
        (_config(1024, 24, 32, 16384, 128), 2_851_598_336),
        (_config(1024, 24, 128, 65536, 128), 11_307_321_344),
        (_config(512, 8, 6, 1024, version=2), 76_961_152),
        (_config(768, 12, 12, 2048, version=2), 247_577_856),
        (_config(1024, 24, 16, 2816, version=2), 783_150_080),
        (_config(2048, 24, 32, 5120, version=2), 2_849_757_184),
        (_config(4096, 24, 64, 10240, version=2), 11_135_332_352),
        (_config(512, 8, 6, 1024, vocab=250112, version=2), 300_176_768),
    ],
    ids=[
        "small", "base", "large", "3b", "11b", "1.1 small", "1.1 base", "1.1 large", "1.1 xl", "1.1 xxl", "mt5 small",
    ],
)  # fmt: skip
def test_published_sizes(config, count):
    assert config.num_params() == count


def test_scores_start_at_unit_scale():
    """Neither scaled scores nor a scaled-down table of words: the queries and a tied head make up for them."""
    config = _config(64, 2, 4, 128, 16)
    module = config.build(Execution())
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, config.vocab_size, (4, 16)).astype(np.int32)
    inputs = {"tokens": tokens, "decoder_tokens": tokens}
    params = nn.meta.unbox(jax.jit(module.init)(jax.random.key(0), **inputs))["params"]
    layer = params["backbone"]["encoder"]["stack"]["layers"]
    assert np.std(layer["attention"]["query"]["kernel"]) == pytest.approx((64 * 16) ** -0.5, rel=0.05)
    assert np.std(layer["attention"]["key"]["kernel"]) == pytest.approx(64**-0.5, rel=0.05)
    assert np.std(layer["mlp"]["down"]["kernel"]) == pytest.approx(128**-0.5, rel=0.05)
    assert np.std(params["backbone"]["token_embedding"]["embedding"]) == pytest.approx(1.0, rel=0.05)
    logits = jax.jit(module.apply)({"params": params}, **inputs).logits
    assert 0.5 < np.std(logits) < 2.0


def test_packed_rows_share_one_bias():
    """Positions that begin anew with each document, others in each row, are as far apart as tokens in their row."""
    config = _config(64, 2, 4, 128, 16, vocab=32)
    segments = np.array([[1, 1, 1, 2, 2, 0], [1, 2, 2, 2, 2, 2]], np.int32)
    positions = np.array([[0, 1, 2, 0, 1, 0], [0, 0, 1, 2, 3, 4]], np.int32)
    packed = {"tokens": segments, "positions": positions, "segment_ids": segments}
    inputs = packed | {f"decoder_{name}": values for name, values in packed.items()}
    module = config.build(Execution())
    params = nn.meta.unbox(jax.eval_shape(module.init, jax.random.key(0), **inputs))
    is_bias = lambda module, _: isinstance(module, RelativeBias)  # noqa: E731
    seen = jax.eval_shape(lambda params: module.apply(params, **inputs, capture_intermediates=is_bias)[1], params)
    shapes = {leaf.shape for leaf in jax.tree.leaves(seen["intermediates"]) if leaf.ndim == 4}
    assert (1, 4, 6, 6) in shapes
    assert (2, 4, 6, 6) not in shapes
