"""Sampling: drawing the next token from its logits.

Shape letters: R rows, V vocabulary.
"""

import dataclasses

import jax
import jax.numpy as jnp

from transformer import checks


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Temperature, top-k, top-p, then min-p, in the order of Transformers' `generate`."""

    temperature: float = 1.0
    """Divisor of the logits; 0 is greedy: always the likeliest token."""
    top_k: int | None = None
    """Only the k likeliest tokens (Fan et al. 2018)."""
    top_p: float | None = None
    """Only the likeliest tokens that together reach probability p (Holtzman et al. 2020); at least one."""
    min_p: float | None = None
    """Only tokens at least p times as likely as the likeliest (Nguyen et al. 2024)."""

    def __post_init__(self) -> None:
        checks.rule(self, "temperature", self.temperature >= 0, "it must be at least 0 (0 is greedy)")
        checks.at_least(self, 1, "top_k")
        checks.within(self, "(0, 1]", "top_p")
        checks.within(self, "[0, 1]", "min_p")


def sample(keys_R: jax.Array, logits_RV: jax.Array, sampling: Sampling) -> jax.Array:
    """Returns a token for each row, int32 [R].

    Args:
      keys_R: a PRNG key for each row, so that a row's draw does not depend on the batch; not used when greedy.
      logits_RV: float32.
      sampling: static under jit.
    """
    if sampling.temperature == 0:
        return jnp.argmax(logits_RV, axis=-1).astype(jnp.int32)
    return jax.vmap(jax.random.categorical)(keys_R, filter_logits(logits_RV, sampling)).astype(jnp.int32)


def filter_logits(logits_RV: jax.Array, sampling: Sampling) -> jax.Array:
    """Returns the logits at the temperature, -inf where a token is left out. Ties at the threshold all stay."""
    logits_RV = logits_RV / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < logits_RV.shape[-1]:
        kth = jax.lax.top_k(logits_RV, sampling.top_k)[0][:, -1:]
        logits_RV = jnp.where(logits_RV < kth, -jnp.inf, logits_RV)
    if sampling.top_p is not None and sampling.top_p < 1:
        ordered = jnp.sort(logits_RV, axis=-1, descending=True)
        probability = jax.nn.softmax(ordered, axis=-1)
        # A token stays while the mass before it is below p, so the first always does.
        stays = jnp.cumsum(probability, axis=-1) - probability < sampling.top_p
        threshold = jnp.min(jnp.where(stays, ordered, jnp.inf), axis=-1, keepdims=True)
        logits_RV = jnp.where(logits_RV < threshold, -jnp.inf, logits_RV)
    if sampling.min_p:
        # A ratio of probabilities is a difference of logits, so no softmax is needed.
        threshold = jnp.max(logits_RV, axis=-1, keepdims=True) + jnp.log(jnp.float32(sampling.min_p))
        logits_RV = jnp.where(logits_RV < threshold, -jnp.inf, logits_RV)
    return logits_RV
