"""Transcription of recordings of any length: window after window, each moved to where the last one's speech ended.

Or in overlapping chunks, many at a time, whose tokens are joined: batches for an accelerator, but no times.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from tqdm import tqdm

from transformer import checks
from transformer.data.audio.log_mel import HOP, RATE
from transformer.errors import UserError
from transformer.inference.restored import Restored
from transformer.inference.rows import batches, even, filled
from transformer.inference.speech.chunks import Chunking, merged
from transformer.inference.speech.segments import FRAMES_A_TIME, Segment, cut
from transformer.inference.speech.vocabulary import SECONDS_A_TIME
from transformer.inference.speech.windows import Fallback, Window, WindowDecoder
from transformer.inference.speech.words import Word, word_times

LogMel = Callable[[np.ndarray, int, int], np.ndarray]
"""(samples, bins, least) -> float32 [frames, bins], at least so many frames, as `transformer.data.audio.log_mel`'s."""


@dataclasses.dataclass(frozen=True)
class Transcript:
    """What is said in a recording."""

    text: str
    language: str | None
    """Its code, given or found; None: the model has no tokens of languages."""
    segments: list[Segment]
    """One for all where no times were asked for."""
    tokens: list[int]
    """All that was said, without prompts and stop tokens."""
    words: list[Word]
    """Empty where they were not asked for."""


@dataclasses.dataclass
class _Recording:
    """How far a recording is transcribed."""

    features: np.ndarray
    """float32 [frames, bins]."""
    sounding: int
    """Frames before the silence that a short recording is filled up with."""
    language: str | None
    seek: int = 0
    """Frames that are done."""
    segments: list[Segment] = dataclasses.field(default_factory=list)
    words: list[Word] = dataclasses.field(default_factory=list)
    earlier: list[int] = dataclasses.field(default_factory=list)
    """Tokens that a window may be conditioned on."""

    @property
    def is_done(self) -> bool:
        return self.seek >= len(self.features)


class Transcriber:
    """A speech model that transcribes recordings, several at a time.

    Args:
      restored: a speech model.
      log_mel: makes its spectrograms.
    """

    def __init__(self, restored: Restored, log_mel: LogMel):
        self.decoder = WindowDecoder(restored)
        self._log_mel = log_mel
        self._frames, self._bins = self.decoder.architecture.input_size

    def __call__(
        self,
        recordings: Sequence[np.ndarray],
        *,
        language: str | None = None,
        task: str = "transcribe",
        times: bool = False,
        words: bool = False,
        condition: bool = False,
        most: int | None = None,
        fallback: Fallback = Fallback(),
        batch_size: int = 8,
        progress: bool = False,
    ) -> list[Transcript]:
        """Returns the transcript of each recording.

        Args:
          recordings: float32 samples in [-1, 1], `RATE` a second.
          language: code of the language that is spoken; None: the likeliest in the first window.
          task: "transcribe", or "translate" to English.
          times: whether segments are found. A recording longer than a window needs times to be cut well, and has them
            said whatever is asked.
          words: whether the words' own times are found, in one more pass of the decoder over each window.
          condition: whether a window is told what was said before it: better in a long text, but errors spread.
          most: the most tokens of a window.
          fallback: when a window is decoded again.
          batch_size: windows that are decoded together.
          progress: whether to show a progress bar, of seconds.
        """
        self.decoder.vocabulary.check(language, task)
        if words and not self.decoder.vocabulary.alignment_heads:
            raise UserError("this model's folder names no alignment_heads: give --timestamps segment")
        all_done = [_Recording(self._spectrogram(each), len(each) // HOP, language) for each in recordings]
        timed = [times or len(recording.features) > self._frames for recording in all_done]
        if any(timed):
            _ = self.decoder.vocabulary.first_time  # raises where the model has no times
        seconds = sum(len(recording.features) for recording in all_done) * HOP / RATE
        with tqdm(total=round(seconds), unit="s", desc="transcribe", disable=not progress) as bar:
            for with_times in (False, True):
                queue = [recording for recording, each in zip(all_done, timed, strict=True) if each == with_times]
                rows = even(len(queue), batch_size)
                while queue := [recording for recording in queue if not recording.is_done]:
                    while 2 * len(queue) <= rows:  # halves: few sizes to compile, and few rows for nothing
                        rows = -(-rows // 2)
                    chosen = queue[:rows]
                    before = sum(recording.seek for recording in chosen)
                    self._advance(chosen, rows, task, with_times, words, condition, most, fallback)
                    bar.update((sum(recording.seek for recording in chosen) - before) * HOP / RATE)
        return [self._transcript(recording) for recording in all_done]

    def in_chunks(
        self,
        recordings: Sequence[np.ndarray],
        chunking: Chunking,
        *,
        language: str | None = None,
        task: str = "transcribe",
        most: int | None = None,
        fallback: Fallback = Fallback(),
        batch_size: int = 8,
        progress: bool = False,
    ) -> list[Transcript]:
        """Returns the transcript of each recording from chunks that are heard together, whosever they are, in no order.

        Args:
          recordings: as `__call__`'s, and so are the others.
          chunking: how they are cut.
          language: None: the likeliest in the first chunk.
          task: "transcribe" or "translate".
          most: the most tokens of a chunk.
          fallback: when a chunk is decoded again.
          batch_size: chunks that are decoded together.
          progress: whether to show a progress bar, of batches.
        """
        vocabulary, window = self.decoder.vocabulary, self._frames * HOP / RATE
        vocabulary.check(language, task)
        checks.rule(chunking, "chunk", chunking.chunk <= window, f"the model hears at most {window:g} s at a time")
        parts = [
            (number, samples[begin:end])
            for number, samples in enumerate(recordings)
            for begin, end in chunking.spans(len(samples), RATE)
        ]
        languages = [language] * len(recordings)
        said: list[list[list[int]]] = [[] for _ in recordings]
        for batch, alike in tqdm(list(batches(parts, batch_size)), desc="transcribe", disable=not progress):
            features = [self._spectrogram(samples) for _, samples in batch]
            memory_BSD = self.decoder.encode(np.stack(filled(features, len(alike))))
            if vocabulary.languages and any(languages[number] is None for number, _ in batch):
                # A recording's first chunk comes before its others.
                for (number, _), found in zip(batch, self.decoder.languages(memory_BSD), strict=False):
                    languages[number] = languages[number] or found
            prompts = [vocabulary.prefix(languages[number], task, times=False) for number, _ in batch]
            windows = self.decoder(memory_BSD, filled(prompts, len(alike)), times=False, most=most, fallback=fallback)
            for (number, _), heard in zip(batch, windows, strict=False):
                said[number].append(heard.tokens)
        transcripts = []
        for samples, code, chunks in zip(recordings, languages, said, strict=True):
            tokens = merged(chunks)
            text = self.decoder.text(tokens)
            segments = [Segment(0.0, len(samples) / RATE, tokens, text)] if text.strip() else []
            transcripts.append(Transcript(text.strip(), code, segments, tokens if segments else [], []))
        return transcripts

    def _spectrogram(self, samples: np.ndarray) -> np.ndarray:
        """Returns a recording's frames: of a short one a whole window's, silence behind it."""
        if len(samples) == 0:
            raise UserError("a recording has no samples")
        return self._log_mel(samples, self._bins, self._frames)

    def _advance(
        self,
        recordings: Sequence[_Recording],
        rows: int,
        task: str,
        times: bool,
        words: bool,
        condition: bool,
        most: int | None,
        fallback: Fallback,
    ) -> None:
        """Decodes the next window of each recording; batches are filled up to `rows`, so that they share a program."""
        alike = filled(recordings, rows)
        memory_BSD = self.decoder.encode(np.stack([self._window(recording) for recording in alike]))
        vocabulary = self.decoder.vocabulary
        if vocabulary.languages and any(recording.language is None for recording in alike):
            for recording, found in zip(recordings, self.decoder.languages(memory_BSD), strict=False):
                recording.language = recording.language or found
        prompts = []
        for recording in alike:
            prefix = vocabulary.prefix(recording.language, task, times=times)
            if condition and recording.earlier and vocabulary.previous is not None:
                room = self.decoder.architecture.context_length // 2 - 1
                prefix = [vocabulary.previous, *recording.earlier[-room:], *prefix]
            prompts.append(prefix)
        windows = self.decoder(memory_BSD, prompts, times=times, most=most, fallback=fallback)
        for row, (recording, window) in enumerate(zip(recordings, windows, strict=False)):
            begin = recording.seek
            if fallback.no_speech is not None and not self._sounds(recording):
                window = Window([], 0.0, 0.0, silent=True)
            segments = self._take(recording, window, times)
            if words:
                recording.words += word_times(
                    self.decoder,
                    memory_BSD[row : row + 1],
                    segments,
                    vocabulary.prefix(recording.language, task, times=False),
                    language=recording.language,
                    offset=begin * HOP / RATE,
                    places=max(min(self._frames, recording.sounding - begin) // FRAMES_A_TIME, 1),
                )

    def _window(self, recording: _Recording) -> np.ndarray:
        """Returns the next frames, [frames, bins], zeros behind the last."""
        part = recording.features[recording.seek : recording.seek + self._frames]
        return np.pad(part, ((0, self._frames - len(part)), (0, 0)))

    def _sounds(self, recording: _Recording) -> bool:
        """Returns whether anything is heard in the next frames: by its own rules, Whisper says "you" to zeros."""
        return bool(np.ptp(recording.features[recording.seek : recording.seek + self._frames]) > 0)

    def _take(self, recording: _Recording, window: Window, times: bool) -> list[Segment]:
        """Adds a window's segments to its recording and moves on; returns them."""
        frames = min(self._frames, len(recording.features) - recording.seek)
        offset = recording.seek * HOP / RATE
        if times:
            segments, moved = cut(window.tokens, self.decoder.vocabulary.first_time, offset, frames)
        else:
            end = offset + frames / FRAMES_A_TIME * SECONDS_A_TIME
            segments, moved = [Segment(offset, end, window.tokens)], frames
        recording.seek += moved
        texts = [self.decoder.text(segment.tokens) for segment in segments]
        pairs = zip(segments, texts, strict=True)
        heard = [dataclasses.replace(segment, text=text) for segment, text in pairs if text.strip()]
        recording.segments += heard
        if not window.silent:
            # A drawn text may be wrong: what follows is not to be led by it.
            said = [token for segment in heard for token in segment.tokens]
            recording.earlier = [*recording.earlier, *said] if window.temperature <= 0.5 else []
        return segments

    def _transcript(self, recording: _Recording) -> Transcript:
        text = "".join(segment.text for segment in recording.segments).strip()
        tokens = [token for segment in recording.segments for token in segment.tokens]
        return Transcript(text, recording.language, recording.segments, tokens, recording.words)
