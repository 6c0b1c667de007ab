"""T5's relative positions: the buckets are Transformers', and positions may be anything."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.models.t5.modeling_t5 import T5Attention

from transformer.layers.relative_bias import RelativeBias


@pytest.mark.parametrize("bidirectional", [True, False], ids=["encoder", "decoder"])
@pytest.mark.parametrize(("count", "furthest"), [(32, 128), (8, 20), (12, 17), (64, 512), (4, 3)])
def test_buckets_are_transformers(count, furthest, bidirectional):
    """A table whose rows are their numbers, looked up at distances beyond the furthest, in both directions."""
    length = 2 * furthest + 3
    positions = np.arange(length, dtype=np.int32)
    module = RelativeBias(1, count, furthest, bidirectional, jax.nn.initializers.zeros)
    params = {"embedding": jnp.arange(count, dtype=jnp.float32)[:, None]}
    have = module.apply({"params": params}, positions[None, furthest : furthest + 1], positions[None])
    ahead = torch.tensor(positions - furthest)
    want = T5Attention._relative_position_bucket(
        ahead, bidirectional=bidirectional, num_buckets=count, max_distance=furthest
    )
    np.testing.assert_array_equal(np.asarray(have)[0, 0, 0], want.numpy())


def test_the_bias_goes_by_positions_of_each_row():
    rng = np.random.default_rng(0)
    queries, keys = rng.integers(0, 30, (2, 3)).astype(np.int32), rng.integers(0, 30, (2, 5)).astype(np.int32)
    module = RelativeBias(4, 8, 9, True, jax.nn.initializers.normal(1.0))
    params = module.init(jax.random.key(0), queries, keys)
    have = module.apply(params, queries, keys)
    assert have.shape == (2, 4, 3, 5)
    for row in range(2):
        alone = module.apply(params, queries[row : row + 1], keys[row : row + 1])
        np.testing.assert_array_equal(have[row], alone[0])
