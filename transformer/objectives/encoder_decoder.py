"""Rows of an encoder-decoder: a source, and a target shifted right."""

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from transformer.data.records import Record
from transformer.objectives.objective import Setting, TokenObjective


@dataclasses.dataclass(frozen=True)
class CorruptedText(TokenObjective):
    """An objective whose examples are texts, corrupted for the encoder, with what the decoder is to say of them."""

    @abc.abstractmethod
    def corrupt(self, tokens: np.ndarray, rng: np.random.Generator, setting: Setting) -> tuple[np.ndarray, np.ndarray]:
        """Returns the source and the target of a text, int32[any length] each; an empty target weighs nothing.

        Args:
          tokens: int32[up to what `reading` asks for], without padding; empty for a record that is all padding.
          rng: decides how it is corrupted.
          setting: what it is corrupted for.
        """

    def example(self, record: Record, rng: np.random.Generator, setting: Setting) -> dict[str, Any]:
        """Returns a corrupted text and what is to be said of it.

        Args:
          record: `tokens` and `segment_ids`, as `reading` asks for; segment 0 is padding.
          rng: decides how it is corrupted.
          setting: S is its `seq_len`, T the `target_length` of that.
        """
        batch = self.examples({name: values[None] for name, values in record.items()}, [rng], setting)
        return {
            name: {field: values[0] for field, values in value.items()} if name == "inputs" else value[0]
            for name, value in batch.items()
        }

    def examples(self, records: Record, rngs: Sequence[np.random.Generator], setting: Setting) -> dict[str, Any]:
        texts = zip(records["tokens"], records["segment_ids"] > 0, rngs, strict=True)
        pairs = [self.corrupt(tokens[filled], rng, setting) for tokens, filled, rng in texts]
        return encoder_decoder_examples(pairs, (setting.seq_len, self.target_length(setting.seq_len)), setting)


def encoder_decoder_examples(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]], lengths: tuple[int, int], setting: Setting
) -> dict[str, Any]:
    """Returns rows of one example each, padded: the decoder reads the target shifted right, after `decoder_start_id`.

    Args:
      pairs: B sources, int32[at most S], and targets, int32[at most T]; what is empty weighs nothing.
      lengths: S and T.
      setting: gives the ids of padding and of the decoder's start.
    """
    pad = np.int32(setting.vocabulary.pad)

    def padded(side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows = np.full((len(pairs), lengths[side]), pad)
        for row, pair in zip(rows, pairs, strict=True):
            row[: len(pair[side])] = pair[side]
        places = np.arange(lengths[side], dtype=np.int32)
        segment_ids = (places < np.array([[len(pair[side])] for pair in pairs])).astype(np.int32)
        return rows, places * segment_ids, segment_ids

    tokens, positions, segment_ids = padded(0)
    targets, decoder_positions, decoder_segment_ids = padded(1)
    return {
        "inputs": {
            "tokens": tokens,
            "positions": positions,
            "segment_ids": segment_ids,
            **decoder_inputs(targets, decoder_positions, decoder_segment_ids, setting),
        },
        "targets": targets,
        "weights": decoder_segment_ids.astype(np.float32),
    }


def decoder_inputs(
    targets: np.ndarray, positions: np.ndarray, segment_ids: np.ndarray, setting: Setting
) -> dict[str, np.ndarray]:
    """Returns what a decoder reads: each target's tokens shifted right, behind the id that begins its input.

    Args:
      targets: int32[..., T].
      positions: int32[..., T], 0 where a target begins.
      segment_ids: int32[..., T], 0 where there is padding.
      setting: gives the ids of padding and of the decoder's start.
    """
    shifted = np.where(positions == 0, np.int32(setting.decoder_start), np.roll(targets, 1, axis=-1))
    return {
        "decoder_tokens": np.where(segment_ids > 0, shifted, np.int32(setting.vocabulary.pad)),
        "decoder_positions": positions,
        "decoder_segment_ids": segment_ids,
    }
