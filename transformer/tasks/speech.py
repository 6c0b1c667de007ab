"""Speech recognition: what is said in a recording."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from transformer.data.audio.log_mel import log_mel
from transformer.data.audio.sound import load, resampled
from transformer.errors import UserError
from transformer.inference.restored import Restored
from transformer.inference.speech.chunks import Chunking
from transformer.inference.speech.transcriber import Transcriber, Transcript
from transformer.inference.speech.windows import GREEDY
from transformer.paths import expanded
from transformer.tasks.task import Options, Task, check_names


@dataclasses.dataclass(frozen=True)
class SpeechOptions(Options):
    """How recordings are heard."""

    return_timestamps: Literal["word"] | bool | None = None
    """Whether "chunks" say when each segment, or with "word" each word, begins and ends, in seconds."""
    chunk_length_s: float | None = None
    """Seconds of overlapping chunks that are heard together, without times; None: window after window."""
    stride_length_s: float | None = None
    """Seconds at each edge of a chunk that its neighbour hears too; None: a sixth of it."""
    generate_kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """`language`, as a code such as en; `task`, transcribe or translate; `max_new_tokens` of a window, else 256; and
    `num_beams` of the search, else 5."""
    return_language: bool = False
    """Whether "language" says what is spoken."""

    def __post_init__(self) -> None:
        names = ("language", "task", "max_new_tokens", "num_beams")
        check_names(self.generate_kwargs, names, "automatic-speech-recognition")
        if self.generate_kwargs.get("num_beams", 1) < 1 or self.generate_kwargs.get("max_new_tokens", 1) < 1:
            raise UserError("generate_kwargs: num_beams and max_new_tokens are to be at least 1")
        if self.return_timestamps not in (None, False, True, "word"):
            raise UserError(f'return_timestamps is {self.return_timestamps!r}: give True, or "word"')
        if self.return_timestamps and self.chunk_length_s:
            raise UserError("chunk_length_s: chunks have no times: leave it out, or return_timestamps")


class SpeechRecognition(Task):
    """A speech model.

    An input is a file, samples (16,000 a second), or a dict with "array" (or "raw") and "sampling_rate". An answer is a
    dict with "text" and, where times are asked for, "chunks", each with "text" and "timestamp".
    """

    name, options, window = "automatic-speech-recognition", SpeechOptions, 1

    def __init__(self, restored: Restored):
        super().__init__(restored)
        self._transcriber = Transcriber(restored, log_mel)

    def answers(self, inputs: Sequence[Any], options: SpeechOptions, batch_size: int, first: int) -> list[Any]:
        recordings = [samples(given, number) for number, given in enumerate(inputs, start=first)]
        told = dict(options.generate_kwargs)
        most, beams = told.pop("max_new_tokens", 256), told.pop("num_beams", 5)
        fallback = dataclasses.replace(GREEDY, beams=beams)
        how: dict[str, Any] = {"batch_size": batch_size, "most": most, "fallback": fallback, **told}
        if options.chunk_length_s:
            chunking = Chunking(options.chunk_length_s, options.stride_length_s)
            transcripts = self._transcriber.in_chunks(recordings, chunking, **how)
        else:
            times, words = bool(options.return_timestamps), options.return_timestamps == "word"
            transcripts = self._transcriber(recordings, times=times, words=words, **how)
        return [self._answer(transcript, options) for transcript in transcripts]

    def _answer(self, transcript: Transcript, options: SpeechOptions) -> dict[str, Any]:
        answer: dict[str, Any] = {"text": "".join(segment.text for segment in transcript.segments)}
        if options.return_timestamps:
            parts: Sequence[Any] = transcript.words if options.return_timestamps == "word" else transcript.segments
            answer["chunks"] = [
                {"text": part.text, "timestamp": (round(part.start, 2), round(part.end, 2))} for part in parts
            ]
        return answer | ({"language": transcript.language} if options.return_language else {})


def samples(given: Any, number: int) -> np.ndarray:
    """Returns a recording's samples, float32, 16,000 a second."""
    if isinstance(given, Mapping):
        found = given.get("array", given.get("raw"))
        if found is None or "sampling_rate" not in given:
            raise UserError(f'input {number}: a dict is to have "array" and "sampling_rate"')
        return resampled(_mono(found, number), int(given["sampling_rate"]))
    if isinstance(given, np.ndarray):
        return _mono(given, number)
    if isinstance(given, str) and given.startswith(("http://", "https://")):
        raise UserError(f"input {number} is an address, and nothing is fetched: give a file")
    try:
        return load(expanded(given))
    except TypeError:
        raise UserError(f"input {number} is a {type(given).__name__}: give a file, or samples") from None


def _mono(given: Any, number: int) -> np.ndarray:
    """Returns one channel: the mean of two, which come first, as [channels, samples]."""
    array = np.asarray(given, np.float32)
    if array.ndim == 2 and array.shape[0] <= 2:
        array = array.mean(axis=0)
    if array.ndim != 1 or not len(array):
        raise UserError(f"input {number}: samples are to be [samples] or [channels, samples], not {array.shape}")
    return array
