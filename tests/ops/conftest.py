"""What several tests of attention need."""

import contextlib

import jax
import pytest


@pytest.fixture
def cudnn_without_a_gpu(monkeypatch):
    """A context in which JAX computes cuDNN's call in its own XLA form, which says what the call's arguments mean."""
    original = jax.nn.dot_product_attention

    @contextlib.contextmanager
    def context():
        with monkeypatch.context() as patch, jax.numpy_dtype_promotion("standard"):  # which the XLA form needs
            patch.setattr(
                jax.nn,
                "dot_product_attention",
                lambda *args, **kwargs: original(*args, **{**kwargs, "implementation": "xla"}),
            )
            yield

    return context
