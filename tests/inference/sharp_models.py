"""Tiny random models whose likeliest tokens are clear."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tests.tiny_models import TINY
from transformer.inference.decode import Generated, generate
from transformer.inference.processors import penalize
from transformer.inference.sampling import Sampling
from transformer.layers.execution import Execution

TEXTS = [[3], [7, 9, 11, 2, 5], [8, 8, 1, 4, 30, 31, 22, 23]]
NEW = 6
"""New tokens, unless otherwise asked."""


class SharpModel:
    """A random model of a family, sharp enough that likeliest tokens are clear.

    Args:
      name: of `TINY`.
      seed: of its weights.
      sharpness: what all weights but norms' scales are multiplied with.
      **fields: fields of the config, other than `TINY`'s.
    """

    def __init__(self, name: str, seed: int = 0, sharpness: float = 1.0, **fields: Any):
        self.config = dataclasses.replace(TINY[name], **fields)
        self.module = self.config.build(Execution())
        abstract = nn.meta.unbox(self.config.abstract_params())
        rng = np.random.default_rng(seed)

        def drawn(path: Any, leaf: Any) -> np.ndarray:
            # Biases small, or one token would be the likeliest everywhere.
            name = jax.tree_util.keystr(path)
            scale = 1.0 if "embedding" in name else 0.5 if "kernel" in name else 0.1
            return (("scale" in name) + rng.normal(0, sharpness * scale, leaf.shape)).astype(np.float32)

        self.params: Any = jax.tree.map_with_path(drawn, abstract)
        self.apply = jax.jit(lambda **inputs: self.module.apply({"params": self.params}, **inputs).logits)

    def generate(self, texts: Sequence[Sequence[int]] = TEXTS, **options: Any) -> list[list[Generated]]:
        """Returns what `generate` does, of `TEXTS`, greedily and with `NEW` tokens unless otherwise asked."""
        defaults = {"max_new_tokens": NEW, "how": Sampling(temperature=0)}
        return generate(self.module, self.params, texts, **defaults | options)

    def greedy(self, text: list[int], penalty: float) -> list[int]:
        """Returns `NEW` tokens without a cache, a whole pass a token."""
        said: list[int] = []
        for _ in range(NEW):
            # What comes after the last token cannot change its logits: one shape, one compilation.
            if self.config.kind == "encoder_decoder":
                row = [self.config.decoder_start_id, *said]
                source = jnp.asarray([text + [0] * (8 - len(text))])
                segments = (jnp.arange(8) < len(text)).astype(jnp.int32)[None]
                target = jnp.asarray([row + [0] * (NEW - len(row))])
                logits = self.apply(tokens=source, segment_ids=segments, decoder_tokens=target)
            else:
                row = [*text, *said]
                logits = self.apply(tokens=jnp.asarray([row + [0] * (16 - len(row))]))
            history = jnp.asarray([row])
            said.append(int(penalize(logits[:, len(row) - 1], history, penalty).argmax()))
        return said
