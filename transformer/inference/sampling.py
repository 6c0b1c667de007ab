"""How the next token is chosen from its logits."""

import dataclasses

import jax
import jax.numpy as jnp

from transformer.errors import UserError


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Temperature, then top-k, then top-p, in the order of Hugging Face's `generate`."""

    temperature: float = 1.0
    """Logits are divided by it; 0 is greedy: the likeliest token, always."""
    top_k: int | None = None
    """Only the k likeliest tokens (Fan et al. 2018)."""
    top_p: float | None = None
    """Only the likeliest tokens that together reach probability p (Holtzman et al. 2020); at least one."""

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise UserError(f"--temperature is {self.temperature}: it must be at least 0 (0 is greedy)")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"--top-k is {self.top_k}: it must be at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"--top-p is {self.top_p}: it must lie in (0, 1]")


def sample(key: jax.Array, logits_BV: jax.Array, sampling: Sampling) -> jax.Array:
    """Returns a token for each row, int32 [B].

    Args:
      key: PRNG key; not used when greedy.
      logits_BV: float32.
      sampling: static under jit.
    """
    if sampling.temperature == 0:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    return jax.random.categorical(key, filter_logits(logits_BV, sampling), axis=-1).astype(jnp.int32)


def filter_logits(logits_BV: jax.Array, sampling: Sampling) -> jax.Array:
    """Returns the logits at the temperature, -inf where a token is left out. Ties at the threshold all stay."""
    logits_BV = logits_BV / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < logits_BV.shape[-1]:
        kth = jax.lax.top_k(logits_BV, sampling.top_k)[0][:, -1:]
        logits_BV = jnp.where(logits_BV < kth, -jnp.inf, logits_BV)
    if sampling.top_p is not None and sampling.top_p < 1:
        ordered = jnp.sort(logits_BV, axis=-1, descending=True)
        probability = jax.nn.softmax(ordered, axis=-1)
        # A token stays while the mass before it is below p, so the first always does.
        stays = jnp.cumsum(probability, axis=-1) - probability < sampling.top_p
        threshold = jnp.min(jnp.where(stays, ordered, jnp.inf), axis=-1, keepdims=True)
        logits_BV = jnp.where(logits_BV < threshold, -jnp.inf, logits_BV)
    return logits_BV
