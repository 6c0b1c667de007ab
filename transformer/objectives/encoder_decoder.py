"""Rows of an encoder-decoder: a source, and a target shifted right."""

from typing import Any

import numpy as np

from transformer.objectives.objective import Setting


def encoder_decoder_example(
    source: np.ndarray, target: np.ndarray, lengths: tuple[int, int], setting: Setting
) -> dict[str, Any]:
    """Returns a row of one example, padded: the decoder reads the target shifted right, from `decoder_start_id` on.

    Args:
      source: int32[at most S].
      target: int32[at most T]; what is empty weighs nothing.
      lengths: S and T.
      setting: gives the ids of padding and of the decoder's start.
    """
    places = np.arange(max(lengths), dtype=np.int32)

    def padded(tokens: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        row = np.full(length, setting.vocabulary.pad, np.int32)
        row[: len(tokens)] = tokens
        segment_ids = (places[:length] < len(tokens)).astype(np.int32)
        return row, places[:length] * segment_ids, segment_ids

    tokens, positions, segment_ids = padded(source, lengths[0])
    targets, decoder_positions, decoder_segment_ids = padded(target, lengths[1])
    shifted = np.concatenate(([setting.decoder_start_id], target[:-1])) if len(target) else target
    return {
        "inputs": {
            "tokens": tokens,
            "positions": positions,
            "segment_ids": segment_ids,
            "decoder_tokens": padded(shifted, lengths[1])[0],
            "decoder_positions": decoder_positions,
            "decoder_segment_ids": decoder_segment_ids,
        },
        "targets": targets,
        "weights": decoder_segment_ids.astype(np.float32),
    }
