"""Segments: a window's tokens cut at its times, and how far the next window is moved."""

import dataclasses
from collections.abc import Sequence

from transformer.inference.speech.vocabulary import SECONDS_A_TIME

FRAMES_A_TIME = 2
"""Frames of a spectrogram that a token of times counts."""


@dataclasses.dataclass(frozen=True)
class Segment:
    """What is said between two times, in seconds from the recording's start."""

    start: float
    end: float
    tokens: list[int]
    """With the times around them."""
    text: str = ""


def cut(tokens: Sequence[int], first_time: int, offset: float, frames: int) -> tuple[list[Segment], int]:
    """Returns a window's segments, and the frames until the next window, as Whisper's released code does.

    Where two times stand side by side, a segment ends; what comes after the last such pair is heard again in the next
    window, unless the window ends with a time alone, after which nothing is said.

    Args:
      tokens: words and times.
      first_time: the token of 0 seconds.
      offset: seconds before the window.
      frames: frames of the window that are not padding.
    """
    is_time = [token >= first_time for token in tokens]
    alone = is_time[-2:] == [False, True]
    ends = [place + 1 for place in range(len(tokens) - 1) if is_time[place] and is_time[place + 1]]
    if not ends:
        last = next((token for token in reversed(tokens) if token > first_time), None)
        seconds = frames / FRAMES_A_TIME * SECONDS_A_TIME if last is None else (last - first_time) * SECONDS_A_TIME
        return ([Segment(offset, offset + seconds, list(tokens))] if tokens else []), frames
    segments, begin = [], 0
    for end in [*ends, len(tokens)] if alone else ends:
        part = list(tokens[begin:end])
        times = [(token - first_time) * SECONDS_A_TIME for token in (part[0], part[-1])]
        segments.append(Segment(offset + times[0], offset + times[1], part))
        begin = end
    moved = frames if alone else (tokens[begin - 1] - first_time) * FRAMES_A_TIME
    return segments, moved or frames
