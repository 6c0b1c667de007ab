"""Sines, cosines and rotations against their equations and Transformers' LLaMA."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from transformer.layers.positions import Llama3Scaling, Rotary, sinusoids


def _truth(positions, width, base=10000.0):
    """sin and cos [T, width / 2] in float64."""
    angles = positions[:, None] / base ** (2 * np.arange(width // 2) / width)
    return np.sin(angles), np.cos(angles)


@pytest.mark.parametrize("width", [2, 6, 64])
def test_sinusoids_in_both_layouts(width):
    positions = np.array([0, 1, 7, 400])
    sin, cos = _truth(positions, width)
    ids = jnp.asarray(positions, jnp.int32)[None]
    interleaved = np.asarray(sinusoids(ids, width, layout="interleaved"))[0]
    np.testing.assert_allclose(interleaved[:, 0::2], sin, atol=1e-4)
    np.testing.assert_allclose(interleaved[:, 1::2], cos, atol=1e-4)
    halves = np.asarray(sinusoids(ids, width, layout="halves"))[0]
    np.testing.assert_allclose(halves, np.concatenate([sin, cos], axis=-1), atol=1e-4)


def test_sinusoids_refuse():
    ids = jnp.zeros((1, 1), jnp.int32)
    with pytest.raises(ValueError, match="even width, not 3"):
        sinusoids(ids, 3, layout="halves")
    with pytest.raises(ValueError, match="choose from: interleaved, halves"):
        sinusoids(ids, 4, layout="quarters")  # type: ignore[arg-type]


def test_rotary_scores_depend_on_distance_only():
    rng = np.random.default_rng(0)
    q, k = (jnp.asarray(rng.normal(size=(1, 1, 1, 16)), jnp.float32) for _ in range(2))
    rotary = Rotary(base=100.0)
    at = lambda x, position: np.asarray(rotary(x, jnp.full((1, 1), position, jnp.int32)))  # noqa: E731
    scores = [float((at(q, t) * at(k, t - 5)).sum()) for t in (5, 17, 60)]
    np.testing.assert_allclose(scores, scores[0], rtol=1e-4)
    np.testing.assert_array_equal(at(q, 0), q)


@pytest.mark.parametrize("scaled", [False, True])
def test_rotary_is_llamas(scaled):
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    scaling = Llama3Scaling(8.0, 1.0, 4.0, 64) if scaled else None
    rope = {"rope_type": "default", "rope_theta": 5000.0}
    if scaling is not None:
        rope |= {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
        rope |= {"original_max_position_embeddings": 64}
    config = LlamaConfig(
        hidden_size=32, num_attention_heads=2, head_dim=16, max_position_embeddings=512, rope_parameters=rope
    )
    rng = np.random.default_rng(0)
    q = rng.normal(size=(2, 5, 2, 16)).astype(np.float32)
    positions = np.array([[0, 1, 2, 3, 4], [100, 200, 300, 400, 511]], np.int32)
    cos, sin = LlamaRotaryEmbedding(config)(torch.tensor(q), torch.tensor(positions).long())
    want = apply_rotary_pos_emb(torch.tensor(q), torch.tensor(q), cos, sin, unsqueeze_dim=2)[0]
    have = Rotary(base=5000.0, scaling=scaling)(jnp.asarray(q), jnp.asarray(positions))
    np.testing.assert_allclose(have, want, atol=2e-4)
