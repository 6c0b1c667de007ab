"""When a window is decoded again, is silent, and is told what was said before it, by a decoder whose draws are given.

The rules are those of Radford et al. 2022, section 4.5, with the defaults of its released `transcribe`.
"""

import dataclasses
import inspect
import zlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from transformer.data.audio.log_mel import HOP
from transformer.inference.rules import DecodingRules
from transformer.inference.speech import transcriber
from transformer.inference.speech.transcriber import Transcriber
from transformer.inference.speech.vocabulary import SpeechVocabulary
from transformer.inference.speech.windows import GREEDY, Fallback, Window, WindowDecoder

STOP, START, PREVIOUS, NO_SPEECH, NO_TIMES = 30, 31, 32, 33, 34
FIRST_TIME = NO_TIMES + 1
FRAMES = 100
LETTERS = "abcdefghijklmnopqrstuvwxyz "
PLAIN = "the quick brown fox"
"""A text that does not compress."""


def spelled(text):
    return [LETTERS.index(letter) for letter in text]


def window(said: str | list[int] = PLAIN, log_probability: float = -0.5) -> Window:
    return Window(spelled(said) if isinstance(said, str) else said, log_probability, temperature=0.0)


class Scripted(WindowDecoder):
    """Gives each row the windows of its script, one a try; a row is known by what its memory holds."""

    def __init__(self, *scripts, no_speech: float | list[float] = 0.0, context_length=448):
        self.vocabulary = SpeechVocabulary(
            START, (STOP,), DecodingRules(), no_times=NO_TIMES, previous=PREVIOUS, no_speech=NO_SPEECH
        )
        self.architecture = SimpleNamespace(input_size=(FRAMES, 1), context_length=context_length)
        self.tokenizer = SimpleNamespace(decode=lambda tokens: "".join(LETTERS[token] for token in tokens))
        self.scripts = [list(script) for script in scripts]
        self.no_speech = no_speech
        self.tries = []
        """(row, temperature) in their order, rows that a batch is filled up with left out."""
        self.prompts = []
        """Prompts of row 0, in their order."""

    def encode(self, features_BFC):
        memory_BSD: Any = np.arange(len(features_BFC))[:, None, None]
        return memory_BSD

    def after_start(self, memory_BSD, prompts=None):
        probabilities = np.zeros((len(memory_BSD), FIRST_TIME))
        probabilities[:, NO_SPEECH] = np.broadcast_to(self.no_speech, len(self.scripts))[memory_BSD[:, 0, 0]]
        return probabilities

    def _draw(self, memory_BSD, prompts, times, most, temperature, seed, beams):
        drawn = {}
        for row, prompt in zip(memory_BSD[:, 0, 0].tolist(), prompts, strict=True):
            if row not in drawn:
                self.tries.append((row, temperature))
                drawn[row] = dataclasses.replace(self.scripts[row].pop(0), temperature=temperature)
                self.prompts += [list(prompt)] if row == 0 else []
        return [drawn[row] for row in memory_BSD[:, 0, 0].tolist()]

    def windows(self, **options):
        rows = len(self.scripts)
        return self(self.encode(np.zeros((rows, FRAMES, 1))), [[START]] * rows, times=False, **options)


def repeated(count):
    return "no way " * count


def ratio(text):
    return len(text.strip()) / len(zlib.compress(text.strip().encode()))


def test_defaults_are_those_of_the_paper():
    assert Fallback() == Fallback((0.0, 0.2, 0.4, 0.6, 0.8, 1.0), 2.4, -1.0, 0.6)
    assert inspect.signature(Transcriber.__call__).parameters["fallback"].default == Fallback()


@pytest.mark.parametrize(
    ("first", "tries"),
    [
        (window(), 1),
        (window(log_probability=-0.99), 1),
        (window(log_probability=-1.0), 1),
        (window(log_probability=-1.01), 2),
        (window(repeated(6)), 1),
        (window(repeated(7)), 2),
        (window(""), 1),
    ],
    ids=["likely", "barely likely", "at the threshold", "unlikely", "barely varied", "repeated", "nothing said"],
)
def test_an_unlikely_or_repeated_text_is_decoded_again(first, tries):
    assert ratio(repeated(6)) < 2.4 < ratio(repeated(7)), "the two lie on both sides of the threshold"
    scripted = Scripted([first, window("the second try")])
    [heard] = scripted.windows()
    assert scripted.tries == [(0, 0.0), (0, 0.2)][:tries]
    assert heard.tokens == (first.tokens if tries == 1 else spelled("the second try"))


def test_spaces_around_a_text_do_not_count_as_repeated():
    """The released code strips a text before it measures it."""
    text = " " * 60 + PLAIN
    assert len(text) / len(zlib.compress(text.encode())) > 2.4
    scripted = Scripted([window(text), window()])
    scripted.windows()
    assert scripted.tries == [(0, 0.0)]


def test_times_do_not_count_as_repeated():
    scripted = Scripted([window([FIRST_TIME] * 90 + spelled(PLAIN)), window()])
    scripted.windows()
    assert scripted.tries == [(0, 0.0)]


def test_only_rows_that_need_it_are_decoded_again_and_the_last_temperature_stands():
    bad, good = window(log_probability=-2.0), window("good")
    scripted = Scripted([window("first")], [bad] * 5 + [window("last", -3.0)], [bad, bad, good])
    heard = scripted.windows()
    assert scripted.tries == [
        (0, 0.0), (1, 0.0), (2, 0.0), (1, 0.2), (2, 0.2), (1, 0.4), (2, 0.4), (1, 0.6), (1, 0.8), (1, 1.0),
    ]  # fmt: skip
    assert [(each.tokens, each.temperature) for each in heard] == [
        (spelled("first"), 0.0),
        (spelled("last"), 1.0),
        (spelled("good"), 0.4),
    ]


@pytest.mark.parametrize(
    ("log_probability", "no_speech", "silent"),
    [(-1.01, 0.61, True), (-1.01, 0.6, False), (-0.99, 0.99, False), (-0.99, 0.1, False)],
    ids=["silent", "at the threshold", "likely text", "speech"],
)
def test_silence_is_an_unlikely_text_where_no_speech_is_likely(log_probability, no_speech, silent):
    scripted = Scripted([window(log_probability=log_probability), window("again")], no_speech=no_speech)
    [heard] = scripted.windows()
    assert heard.silent == silent
    assert heard.tokens == ([] if silent else spelled("again" if log_probability < -1 else PLAIN))
    assert len(scripted.tries) == (2 if log_probability < -1 and not silent else 1), "silence is not decoded again"


def test_silence_is_found_for_the_row_that_is_silent():
    bad = window(log_probability=-2.0)
    scripted = Scripted([window()], [bad, window("speech")], [bad], no_speech=[0.9, 0.1, 0.9])
    heard = scripted.windows()
    assert [each.silent for each in heard] == [False, False, True]
    assert heard[1].tokens == spelled("speech")


def test_greedy_takes_whatever_it_gets():
    scripted = Scripted([window(repeated(20), log_probability=-5.0)], no_speech=1.0)
    [heard] = scripted.windows(fallback=GREEDY)
    assert (heard.tokens, heard.temperature, heard.silent) == (spelled(repeated(20)), 0.0, False)


def said(text, end=FRAMES // 2):
    """The tokens of a window that is one finished segment."""
    return [FIRST_TIME, *spelled(text), FIRST_TIME + end]


def loudness(samples, bins, least):
    """Stands for a spectrogram: a frame's energy."""
    assert len(samples) >= least * HOP
    energy = np.square(samples).reshape(-1, HOP).mean(axis=1)
    return np.repeat(energy[:, None], bins, axis=1)


def transcribed(monkeypatch, scripted, windows, **options):
    """Returns the transcript of a recording of so many windows."""
    monkeypatch.setattr(transcriber, "WindowDecoder", lambda _: scripted)
    hears: Any = Transcriber
    sound = np.random.default_rng(0).normal(size=windows * FRAMES * HOP).astype(np.float32)
    [transcript] = hears(None, loudness)([sound], times=True, **options)
    assert not scripted.scripts[0], "every window was heard"
    return transcript


def test_a_window_is_told_what_was_said_only_where_asked(monkeypatch):
    script = [window(said("one")), window(said("two")), window(said("three"))]
    scripted = Scripted(script)
    assert transcribed(monkeypatch, scripted, 3).text == "onetwothree"
    assert scripted.prompts == [[START]] * 3
    scripted = Scripted(script)
    assert transcribed(monkeypatch, scripted, 3, condition=True).text == "onetwothree"
    earlier = said("one") + said("two")
    assert scripted.prompts == [[START], [PREVIOUS, *said("one"), START], [PREVIOUS, *earlier, START]]


def test_a_window_is_told_as_much_as_half_of_the_context_holds(monkeypatch):
    scripted = Scripted([window(said("one")), window(said("two")), window(said("three"))], context_length=16)
    transcribed(monkeypatch, scripted, 3, condition=True)
    earlier = said("one") + said("two")
    assert scripted.prompts == [[START], [PREVIOUS, *said("one"), START], [PREVIOUS, *earlier[-7:], START]]


@pytest.mark.parametrize(("tries", "is_told"), [(3, True), (4, False)], ids=["drawn at 0.4", "drawn at 0.6"])
def test_nothing_is_told_after_a_text_drawn_above_a_half(monkeypatch, tries, is_told):
    bad = window(log_probability=-2.0)
    script = [window(said("one")), *[bad] * (tries - 1), window(said("two")), window(said("three"))]
    scripted = Scripted(script)
    assert transcribed(monkeypatch, scripted, 3, condition=True).text == "onetwothree"
    told = [PREVIOUS, *said("one"), *said("two")] if is_told else []
    assert scripted.prompts[-1] == [*told, START]


def test_a_silent_window_says_nothing_and_leaves_what_was_said_before_it(monkeypatch):
    """Even where silence was only found at a high temperature, after texts that repeated themselves."""
    bad = window(said(repeated(20)))
    script = [window(said("one")), *[bad] * 3, window(said("two"), -2.0), window(said("three"))]
    scripted = Scripted(script, no_speech=0.9)
    assert transcribed(monkeypatch, scripted, 3, condition=True).text == "onethree"
    assert [temperature for _, temperature in scripted.tries] == [0.0, 0.0, 0.2, 0.4, 0.6, 0.0]
    assert scripted.prompts[-1] == [PREVIOUS, *said("one"), START]


def test_a_blank_segment_is_told_to_nobody(monkeypatch):
    scripted = Scripted([window(said("one")), window(said(" ")), window(said("three"))])
    assert transcribed(monkeypatch, scripted, 3, condition=True).text == "onethree"
    assert scripted.prompts[-1] == [PREVIOUS, *said("one"), START]


def test_a_recording_without_any_sound_says_nothing(monkeypatch):
    """Whatever the model thinks of it: trained on what is said at the end of videos, it thinks "you" likely."""
    monkeypatch.setattr(transcriber, "WindowDecoder", lambda _: Scripted([window(said("you"))] * 2))
    hears: Any = Transcriber
    silence = [np.zeros(2 * FRAMES * HOP, np.float32)]
    [transcript] = hears(None, loudness)(silence, times=True)
    assert (transcript.text, transcript.tokens, transcript.segments) == ("", [], [])
    [transcript] = hears(None, loudness)(silence, times=True, fallback=GREEDY)
    assert transcript.text == "youyou"


@pytest.mark.parametrize(
    ("windows", "rows"),
    [([1] * 10, [5, 5]), ([1] * 8, [8]), ([4, 1, 1], [3, 1, 1, 1]), ([2, 2, 2, 1, 1, 1, 1, 1], [8, 4])],
    ids=["more than a batch", "a batch", "a long one", "three longer ones"],
)
def test_few_rows_are_heard_for_nothing(monkeypatch, windows, rows):
    scripted, heard = Scripted(*[[window(said("one"))] * 9] * 8), []
    monkeypatch.setattr(transcriber, "WindowDecoder", lambda _: scripted)
    encode = scripted.encode
    monkeypatch.setattr(scripted, "encode", lambda features: heard.append(len(features)) or encode(features))
    rng = np.random.default_rng(0)
    sounds = [rng.normal(size=count * FRAMES * HOP).astype(np.float32) for count in windows]
    hears: Any = Transcriber
    transcripts = hears(None, loudness)(sounds, times=True, batch_size=8)
    assert [transcript.text for transcript in transcripts] == ["one" * count for count in windows]
    assert heard == rows
