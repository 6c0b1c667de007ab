"""GPT-3's banded layers: what they cost, and which they are. (Numbers: tests/interop/test_gpt_neo.py.)"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.errors import UserError
from transformer.layers.execution import Execution
from transformer.models.gpt import GPTConfig

LENGTH, BAND = 512, 32
DENSE = GPTConfig(vocab_size=64, context_length=LENGTH, width=128, num_layers=2, num_heads=2, dropout=0.0)
BANDED = dataclasses.replace(DENSE, band=BAND)


def _flops(config):
    """Returns what XLA counts of a step's forward and backward pass over one sequence."""
    module = config.build(Execution(attention="xla", unroll=0))
    variables = {"params": nn.meta.unbox(config.abstract_params())}
    loss = lambda variables, tokens: jnp.square(module.apply(variables, tokens).logits).mean()  # noqa: E731
    tokens = jax.ShapeDtypeStruct((1, LENGTH), jnp.int32)
    return jax.jit(jax.grad(loss)).lower(variables, tokens).compile().cost_analysis()["flops"]


@pytest.mark.exhaustive
def test_the_compiler_counts_the_work_that_the_band_saves():
    """Per layer two products forward and four backward, of 2 D FLOPs for every pair of a query and a key it is shown.

    Blocks of 64 queries: a dense layer shows block i its 64 (i + 1) keys, a banded one its own and the band before.
    """
    blocks = range(0, LENGTH, 64)
    dense = sum(64 * (start + 64) for start in blocks)
    banded = sum(64 * (64 + min(start, BAND - 1)) for start in blocks)
    saved = 6 * 2 * DENSE.width * (dense - banded)  # one layer of the two
    assert _flops(DENSE) - _flops(BANDED) == pytest.approx(saved, rel=0.1)  # and softmax over fewer scores
    assert banded < 0.33 * dense


def test_the_count_of_flops_follows_the_band():
    saved = 12 * DENSE.width * LENGTH * (LENGTH - BAND)  # one layer of the two
    assert DENSE.flops_per_example(LENGTH) - BANDED.flops_per_example(LENGTH) == saved
    assert BANDED.flops_per_example(BAND) == DENSE.flops_per_example(BAND)


def test_every_second_layer_is_banded():
    """With a band of one token, only the dense layer's attention brings an earlier token to the last one."""
    config = dataclasses.replace(DENSE, vocab_size=11, width=8, context_length=16, band=1)
    rng = np.random.default_rng(0)
    shapes = nn.meta.unbox(config.abstract_params())
    params = jax.tree.map(lambda leaf: rng.normal(scale=0.3, size=leaf.shape).astype(np.float32), shapes)
    apply = jax.jit(config.build(Execution()).apply)
    tokens = np.arange(10, dtype=np.int32)[None]
    other = tokens + (tokens == 2)

    def reaches():
        return bool((apply({"params": params}, tokens).logits != apply({"params": params}, other).logits)[0, -1].any())

    assert reaches()
    attention = params["backbone"]["stack"]["layers"]["dense"]["attention"]
    attention["out"] = jax.tree.map(np.zeros_like, attention["out"])
    assert not reaches()


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"band": 0}, "band is 0"), ({"band": 4, "num_layers": 3}, "num_layers is 3: dense and banded layers take turns")],
)
def test_impossible_configs_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        GPTConfig(**fields)
