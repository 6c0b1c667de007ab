"""The rules of speech decoding against Transformers' own: times, segments, alignment; and words."""

import jax.numpy as jnp
import numpy as np
import pytest

from transformer.inference.processors import NOTHING
from transformer.inference.speech.segments import cut
from transformer.inference.speech.timestamps import TimeRules
from transformer.inference.speech.words import median_filter, split_words, warping_path

STOP, NO_TIMES, FIRST, SIZE = 20, 25, 26, 60
SAID = {
    "nothing yet": [],
    "a first time": [FIRST + 3],
    "words": [FIRST, 4, 5],
    "a segment's end": [FIRST, 4, FIRST + 7],
    "a pair": [FIRST, 4, FIRST + 7, FIRST + 7],
    "words after a pair": [FIRST, 4, FIRST + 7, FIRST + 9, 3],
    "the end of a second segment": [FIRST, 4, FIRST + 7, FIRST + 9, 3, FIRST + 12],
}


@pytest.mark.parametrize("said", SAID.values(), ids=SAID)
@pytest.mark.parametrize("latest", [None, 4])
def test_time_rules_are_transformers(said, latest):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = transformers.GenerationConfig(eos_token_id=STOP, bos_token_id=STOP)
    config.no_timestamps_token_id, config.max_initial_timestamp_index = NO_TIMES, latest
    prompt = [21, 22]
    theirs = transformers.generation.WhisperTimeStampLogitsProcessor(config, begin_index=len(prompt))
    for seed in range(6):
        scores = np.random.default_rng(seed).normal(size=(1, SIZE)).astype(np.float32) * (1 + seed)
        want = theirs(torch.tensor([prompt + said]), torch.tensor(scores)).numpy()
        history = np.full((1, 12), NOTHING, np.int32)
        history[0, : len(prompt + said)] = prompt + said
        rules = TimeRules(FIRST, STOP, latest)
        index, end = jnp.int32(len(said)), jnp.int32(len(prompt + said))
        np.testing.assert_array_equal(rules(jnp.asarray(scores), jnp.asarray(history), index, end), want)


def test_segments_end_where_two_times_meet():
    tokens = [FIRST, 4, 5, FIRST + 10, FIRST + 10, 6, FIRST + 20, FIRST + 20, 7]
    segments, moved = cut(tokens, FIRST, 30.0, 3000)
    assert [(round(each.start, 2), round(each.end, 2), each.tokens) for each in segments] == [
        (30.0, 30.2, [FIRST, 4, 5, FIRST + 10]),
        (30.2, 30.4, [FIRST + 10, 6, FIRST + 20]),
    ]
    assert moved == 40, "what is not finished is heard again"


def test_a_time_alone_at_the_end_ends_the_window():
    segments, moved = cut([FIRST, 4, FIRST + 10, FIRST + 10, 6, FIRST + 20], FIRST, 0.0, 700)
    assert [len(each.tokens) for each in segments] == [3, 3]
    assert moved == 700


@pytest.mark.parametrize(
    ("tokens", "end"), [([FIRST, 4, FIRST + 10], 0.2), ([FIRST, 4], 7.0), ([4, 5], 7.0)], ids=["time", "start", "none"]
)
def test_without_a_pair_a_window_is_one_segment(tokens, end):
    [segment], moved = cut(tokens, FIRST, 1.0, 700)
    assert (segment.start, round(segment.end, 2), moved) == (1.0, 1.0 + end, 700)


def test_silence_has_no_segment():
    assert cut([], FIRST, 0.0, 700) == ([], 700)


@pytest.mark.parametrize("shape", [(1, 9), (5, 40), (12, 12), (7, 3)])
def test_alignment_is_transformers(shape):
    theirs = pytest.importorskip("transformers.models.whisper.generation_whisper")
    torch = pytest.importorskip("torch")
    matrix = np.random.default_rng(shape[0]).normal(size=shape)
    for have, want in zip(warping_path(matrix), theirs._dynamic_time_warping(matrix), strict=True):
        np.testing.assert_array_equal(have, want)
    weights = np.random.default_rng(1).normal(size=(2, *shape)).astype(np.float32)
    want = theirs._median_filter(torch.tensor(weights)[None], 7)[0].numpy()
    np.testing.assert_array_equal(median_filter(weights, 7), want)


PIECES = [" Hello", ",", " it", "'s", " (", "two", ")", " \ufffd", "\ufffd", "."]


def test_words_are_whole_and_punctuation_belongs_to_them():
    def decode(tokens):
        text = "".join(PIECES[token] for token in tokens)
        return text.replace(" \ufffd\ufffd", " é")

    words = split_words(range(len(PIECES)), decode, spaced=True)
    assert [text for text, _ in words] == [" Hello,", " it's", " (two)", " é."]
    assert [token for _, tokens in words for token in tokens] == list(range(len(PIECES)))
