"""Records of speech: filled up with silence, framed by an end, and what cannot be read is named or left out."""

import numpy as np
import pytest
import soundfile

from transformer.data.audio.config import AudioConfig
from transformer.data.audio.log_mel import log_mel
from transformer.data.audio.records import SpeechReading
from transformer.data.kinds import open_dataset
from transformer.errors import UserError
from transformer.tokenizers.raw_bytes import ByteTokenizer

SIZE = (120, 80)


def opened(*, length=8, size=SIZE, whole=False, **fields):
    return open_dataset(AudioConfig(**fields), SpeechReading(length), vocab_size=384, input_size=size, whole=whole)


def manifest(folder, rows, name="a.tsv", *, seconds=1.0):
    for number in range(4):
        noise = np.random.default_rng(number).normal(0, 0.1, round(16000 * seconds))
        soundfile.write(folder / f"{number}.wav", noise, 16000, subtype="FLOAT")
    (folder / name).write_text("\n".join(rows) + "\n")
    return str(folder / name)


ROWS = ["audio\ttranscript", *(f"{number}.wav\tsay {number}" for number in range(4))]


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("a.tsv", ROWS),
        ("a.tsv", ROWS[1:]),
        ("a.jsonl", [f'{{"file": "{number}.wav", "text": "say {number}"}}' for number in range(4)]),
    ],
)
def test_a_file_lists_recordings(name, rows, tmp_path):
    dataset = opened(path=manifest(tmp_path, rows, name), whole=True)
    assert dataset.train == ()
    assert [dataset.show(dataset.validation[index]) for index in range(4)] == [(f"say {n}",) for n in range(4)]
    record = dataset.validation[2]
    samples, _ = soundfile.read(tmp_path / "2.wav", dtype="float32")
    np.testing.assert_array_equal(record["features"], log_mel(np.pad(samples, (0, 120 * 160 - 16000)), 80))
    ids = [*ByteTokenizer().encode("say 2"), ByteTokenizer.eos_id]
    assert record["tokens"].tolist() == [*ids, 0, 0]
    assert record["segment_ids"].tolist() == [1] * 6 + [0] * 2
    assert record["there"] == 1


def test_a_file_is_split(tmp_path):
    dataset = opened(path=manifest(tmp_path, ROWS), validation_fraction=0.3)
    parts = [dataset.train[0], dataset.validation]
    said = [dataset.show(records[index])[0] for records in parts for index in range(len(records))]
    assert sorted(said) == [f"say {n}" for n in range(4)]


@pytest.mark.parametrize(
    ("name", "rows", "words"),
    [
        ("a.tsv", ["0.wav\tone", "9.wav\tnine"], "a.tsv, line 2: .*9.wav is no file: put the sound there"),
        ("a.tsv", ["audio\ttext", "0.wav"], r"a.tsv, line 2: it has no text \(a field or column text, transcript\)"),
        ("a.jsonl", ['{"file": "0.wav", "text": "a"}', '{"text": "b"}'], "a.jsonl, line 2: it has no audio"),
        ("a.jsonl", ["{"], "line 1: not JSON"),
        ("a.tsv", [""], "has no rows"),
        ("a.csv", ["0.wav,one"], "a.csv: give a .tsv or .jsonl file"),
    ],
)
def test_rows_that_will_not_do_are_refused_with_their_line(name, rows, words, tmp_path):
    with pytest.raises(UserError, match=words):
        opened(path=manifest(tmp_path, rows, name))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"seconds": 1.3},
            "0.wav: 1.30 seconds, and the model hears 1.2 at once: cut it; --data.skip-damaged True leaves",
        ),
        ({"length": 5}, "0.wav: a transcript of 6 tokens, and --train.seq-len is 5: raise it"),
        ({"damage": True}, "0.wav: no sound that can be read"),
    ],
)
def test_what_cannot_be_read_stops_or_is_left_out(change, words, tmp_path, capsys):
    path = manifest(tmp_path, ROWS, seconds=change.get("seconds", 1.0))
    if change.get("damage"):
        (tmp_path / "0.wav").write_bytes(b"no sound")
    length = change.get("length", 8)
    with pytest.raises(UserError, match=words):
        _ = opened(path=path, length=length, whole=True).validation[0]
    records = opened(path=path, length=length, whole=True, skip_damaged=True).validation
    for _ in range(2):
        assert not any(values.any() for values in records[0].values())
    assert capsys.readouterr().err.count("left out (1 so far, listed in ") == 1


def test_tones_need_room():
    with pytest.raises(UserError, match="--model.encoder-places 50: clips of tones have up to 120 frames: give 60"):
        opened(size=(100, 80))


def test_other_models_hear_nothing():
    with pytest.raises(UserError, match="--data is audio and the model hears none"):
        opened(size=(8, 8, 3))


def test_the_fingerprint_follows_the_content(tmp_path):
    one = opened(path=manifest(tmp_path, ROWS), validation_fraction=0.3)
    same = opened(path=str(tmp_path / "a.tsv"), validation_fraction=0.3)
    other = opened(path=manifest(tmp_path, [*ROWS[:-1], "3.wav\tsaid"]), validation_fraction=0.3)
    assert one.fingerprint == same.fingerprint != other.fingerprint
    assert one.about.identity == same.about.identity != other.about.identity
