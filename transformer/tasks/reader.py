"""Rows of tokens of any lengths through a model: sorted by length, in batches of few compiled programs.

Shape letters: B batch, T length.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from transformer.inference.restored import Restored
from transformer.inference.rows import padded, round_up
from transformer.objectives.examples import read_again
from transformer.tokenizers.framing import Row

Read = Callable[[Any], jax.Array]
"""A model's outputs -> float32 [B, ...] or [B, T, ...]: what is wanted of them."""

_AHEAD = 2
"""Batches that the device works on while the host reads off earlier ones."""


def scores_of_row(outputs: Any) -> jax.Array:
    """Scores of classes, a row each: [B, C]."""
    return outputs.logits


def scores_of_tokens(outputs: Any) -> jax.Array:
    """Scores of classes, a token each: [B, T, C]."""
    return outputs.logits


def hidden_states(outputs: Any) -> jax.Array:
    """Hidden states: [B, T, D]."""
    return outputs.hidden_BTD.astype(jnp.float32)


_OF_TOKENS = (scores_of_tokens, hidden_states)
"""What has an entry a token."""


def width_of(longest: int) -> int:
    """Returns the width of a batch: a multiple of 8 up to 64, and from each power of two to the next one of four.

    Short texts are read in narrow rows, less than a fifth of a long one is padding, and yet a model that reads 512
    tokens has no more than 20 programs.

    Args:
      longest: tokens of its longest row.
    """
    return round_up(longest, max(8, (1 << (longest - 1).bit_length()) // 8))


class RowReader:
    """A model that reads rows.

    Args:
      restored: a model of tokens, with a head whose outputs `read` knows.
      read: one of the functions above.
    """

    def __init__(self, restored: Restored, read: Read):
        architecture: Any = restored.architecture
        self._architecture, self._model, self._params, self._read = architecture, restored.model, restored.params, read
        self._has_types = getattr(architecture, "num_token_types", 0) > 1

    def __call__(self, rows: Sequence[Row], batch_size: int) -> list[np.ndarray]:
        """Returns what is read of each row, float32: without what stands for padding."""
        read: list[Any] = [None] * len(rows)
        order = sorted(range(len(rows)), key=lambda number: len(rows[number]), reverse=True)
        pending: list[tuple[list[int], jax.Array]] = []

        def fetch() -> None:
            numbers, scores = pending.pop(0)
            for number, own in zip(numbers, np.asarray(scores), strict=False):
                read[number] = own[: len(rows[number])] if self._read in _OF_TOKENS else own

        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            pending.append((chosen, self._dispatched([rows[number] for number in chosen], batch_size)))
            if len(pending) > _AHEAD:
                fetch()
        while pending:
            fetch()
        return read

    def _dispatched(self, rows: list[Row], batch_size: int) -> jax.Array:
        """Returns what is read of a batch, which is filled up with copies so that batches share programs."""
        full = min(batch_size, 1 << (len(rows) - 1).bit_length())
        filled = (rows * full)[: max(full, len(rows))]
        context = self._architecture.longest_input
        width = width_of(len(rows[0]))
        width = width if context is None else min(width, context)
        tokens_BT, segments_BT = padded([row.ids for row in filled], width)
        inputs: dict[str, Any] = {"tokens": tokens_BT, "segment_ids": segments_BT}
        if self._has_types:
            inputs["token_types"] = padded([row.token_types for row in filled], width)[0]
        if self._architecture.kind == "encoder_decoder":
            inputs |= read_again(tokens_BT, segments_BT, self._architecture.decoder_start_id)
        return _apply(self._model, self._params, self._read, inputs)


@functools.partial(jax.jit, static_argnames=("model", "read"))
def _apply(model: nn.Module, params: Any, read: Read, inputs: dict[str, jax.Array]) -> jax.Array:
    apply: Any = model.apply
    return read(apply({"params": params}, **inputs))
