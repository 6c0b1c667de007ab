"""Chunks: where they are cut and how their tokens are joined, against Transformers' own; and what cannot be."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools import generate
from transformer import command
from transformer.errors import UserError
from transformer.inference.speech.chunks import Chunking, merged


@given(
    tokens=st.lists(st.integers(0, 50_000), min_size=1, max_size=120, unique=True),
    stride=st.integers(1, 8),
    step=st.integers(1, 20),
)
def test_what_was_cut_is_joined_to_itself(tokens, stride, step):
    spans = Chunking(2.0 * stride + step, stride).spans(len(tokens), rate=1)
    assert merged([tokens[begin:end] for begin, end in spans]) == tokens


@given(samples=st.integers(1, 200), stride=st.integers(1, 8), step=st.integers(1, 20))
def test_chunks_cover_a_recording_and_overlap_by_two_strides(samples, stride, step):
    chunk = 2 * stride + step
    spans = Chunking(chunk, stride).spans(samples, rate=1)
    assert (spans[0][0], spans[-1][1]) == (0, samples)
    assert all(end - begin == chunk for begin, end in spans[:-1])
    assert all(end - begin == 2 * stride for (_, end), (begin, _) in itertools.pairwise(spans))


def test_chunks_are_cut_where_transformers_cuts_them():
    theirs = pytest.importorskip("transformers.pipelines.automatic_speech_recognition")

    def extractor(chunk, **_):
        return {"samples": chunk}

    extractor.sampling_rate = 100
    for samples in (1, 399, 400, 401, 667, 1200, 1201, 5000):
        sound = np.arange(samples)
        want = [each["samples"] for each in theirs.chunk_iter(sound, extractor, 400, 67, 67)]
        have = [sound[begin:end] for begin, end in Chunking(4.0).spans(samples, rate=100)]
        assert [part.tolist() for part in have] == [part.tolist() for part in want]


JOINED = list(range(20))
ROWS = {
    "the last token of the left one is wrong": [[*range(11), 99], list(range(8, 20))],
    "the first token of the right one is wrong": [list(range(12)), [98, *range(9, 20)]],
    "both are": [[*range(11), 99], [98, *range(9, 20)]],
    "two of six are": [[*range(12), 99], [98, *range(8, 20)]],
    "each of three": [[*range(7), 99], [98, *range(5, 13), 97], [96, *range(11, 20)]],
    "nothing is shared": [list(range(10)), list(range(10, 20))],
    "a silent chunk": [list(range(10)), [], list(range(10, 20))],
    "silence first and last": [[], list(range(20)), []],
    "one chunk": [list(range(20))],
}


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_a_wrong_token_near_an_edge_is_the_other_chunks(rows):
    assert merged(rows) == JOINED


def test_a_single_equal_token_joins_nothing():
    assert merged([[1, 2, 3], [3, 4, 5]]) == [1, 2, 3, 3, 4, 5]


def test_rows_are_joined_as_transformers_joins_them():
    theirs = pytest.importorskip("transformers.models.whisper.tokenization_whisper")
    generator = np.random.default_rng(0)
    for trial in range(300):
        words = int(generator.choice([2, 5, 30, 1000]))  # few: much agrees by chance
        tokens = generator.integers(0, words, 60)
        chunking, rows = Chunking(20.0, int(generator.integers(1, 10))), []
        for begin, end in chunking.spans(int(generator.integers(1, 60)), rate=1):
            row = tokens[begin:end].copy()
            wrong = generator.random(len(row)) < generator.choice([0.0, 0.1, 0.5])
            row[wrong] = generator.integers(0, words, int(wrong.sum()))
            row = row[generator.random(len(row)) >= generator.choice([0.0, 0.1])]  # and some are left out
            rows.append(row.tolist() if generator.random() < 0.95 else [])
        assert merged(rows) == theirs._find_longest_common_sequence(rows), (trial, rows)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"chunk": 0.0}, "chunk is 0.0: it must be at least 1 s"),
        ({"chunk": float("nan")}, "chunk is nan"),
        ({"chunk": 12.0, "stride": 6.0}, "stride is 6.0: it must be below half a chunk, 6 s"),
        ({"chunk": 12.0, "stride": 0.0}, "stride is 0.0: it must be above 0"),
    ],
)
def test_what_cannot_be_is_refused(fields, message):
    with pytest.raises(UserError, match=message):
        Chunking(**fields)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--prompt", "a", "--chunk", "20"], "--chunk is of recordings: give --audio FILE"),
        (["--mask", "<mask>", "--stride", "2"], "--stride is of recordings: give --audio FILE"),
        (["--audio", "a.wav", "--stride", "2"], "--stride is how far chunks overlap: give --chunk SECONDS"),
        (["--audio", "a.wav", "--chunk", "20", "--timestamps", "word"], "--timestamps word: chunks have no times"),
        (["--audio", "a.wav", "--chunk", "20", "--stride", "10"], "--stride is 10.0: it must be below half a chunk"),
        (["--audio", "a.wav", "--chunk", "0.5"], "--chunk is 0.5: it must be at least 1 s"),
        (["--audio", "a.wav", "--batch-size", "0"], "--batch-size is 0: it must be at least 1"),
    ],
)
def test_flags_that_no_model_could_follow_are_refused_before_one_is_read(capsys, flags, message):
    assert command.run(lambda: generate.main(["no-such-run", *flags])) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
