"""Filters equal Transformers' own, and draws follow the filtered distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from transformer.errors import UserError
from transformer.inference.sampling import Sampling, filter_logits, sample


@given(
    seed=st.integers(0, 10_000),
    temperature=st.floats(0.2, 3),
    top_k=st.none() | st.integers(1, 40),
    top_p=st.none() | st.floats(0.05, 1),
    min_p=st.none() | st.floats(0, 1),
)
def test_filters_equal_transformers(seed, temperature, top_k, top_p, min_p):
    logits = np.random.default_rng(seed).normal(size=(3, 29)).astype(np.float32)
    warpers = [TemperatureLogitsWarper(temperature)]
    warpers += [] if top_k is None else [TopKLogitsWarper(top_k)]
    warpers += [] if top_p is None else [TopPLogitsWarper(top_p)]
    warpers += [] if min_p is None else [MinPLogitsWarper(min_p)]
    theirs = torch.tensor(logits)
    for warp in warpers:
        theirs = warp(None, theirs)
    ours = filter_logits(jnp.asarray(logits), Sampling(temperature, top_k, top_p, min_p))
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5)


def test_draws_follow_the_filtered_distribution():
    sampling = Sampling(temperature=0.7, top_k=3)
    logits = jnp.asarray([[1.0, 0.5, 0.0, -1.0, -2.0]])
    keys = jax.random.split(jax.random.key(0), 20_000)
    draws = sample(keys, jnp.tile(logits, (20_000, 1)), sampling)
    frequencies = np.bincount(np.asarray(draws), minlength=5) / 20_000
    np.testing.assert_allclose(frequencies, jax.nn.softmax(filter_logits(logits, sampling)[0]), atol=0.015)


def test_greedy_takes_the_likeliest():
    keys, logits = jax.random.split(jax.random.key(0), 1), jnp.asarray([[0.0, 3.0, 1.0]])
    assert sample(keys, logits, Sampling(temperature=0)).tolist() == [1]


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": -0.1}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.1}, {"min_p": 1.1}, {"min_p": -0.1},
    ],
)  # fmt: skip
def test_refuses(fields):
    with pytest.raises(UserError, match=f"^{next(iter(fields))} is "):
        Sampling(**fields)
