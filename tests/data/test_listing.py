"""Listings: kept, they say what listing anew would say, until a folder or a file of rows changes."""

import os
import pickle
import time

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.images.pictures import class_folders, encoded, picture
from transformer.data import listing
from transformer.data.audio.config import AudioConfig
from transformer.data.audio.records import SpeechReading
from transformer.data.images import folders
from transformer.data.images.config import ImagesConfig
from transformer.data.images.records import ImageReading
from transformer.data.kinds import list_files, open_dataset
from transformer.data.listing import Listing, Strings
from transformer.errors import UserError


def settle(root):
    """Makes everything below a folder old, as a corpus is that was not written just now."""
    for path in [root, *root.rglob("*")]:
        os.utime(path, (10**9, 10**9))


def images(root, cache):
    config = ImagesConfig(path=str(root), validation_fraction=0.3, cache_dir=str(cache))
    return config, lambda: open_dataset(config, ImageReading(), vocab_size=None, input_size=(8, 8, 3))


def captions(root, cache):
    (root / "list.tsv").write_text(
        "".join(f"cat/{n}.png\tfelix {n}\n" for n in range(6)) + "dog/0.png\tein Hündchen\n", "utf-8"
    )
    config = ImagesConfig(path=str(root / "list.tsv"), validation_fraction=0.3, cache_dir=str(cache))
    reading = ImageReading(captions=True, length=20)
    return config, lambda: open_dataset(config, reading, vocab_size=384, input_size=(8, 8, 3))


def recordings(root, cache):
    for number in range(6):
        soundfile.write(root / f"{number}.wav", np.sin(np.arange(8000) * (0.1 + number / 20)), 16000)
    (root / "list.tsv").write_text("".join(f"{n}.wav\tsay {n}\n" for n in range(6)))
    config = AudioConfig(path=str(root / "list.tsv"), validation_fraction=0.3, cache_dir=str(cache))
    return config, lambda: open_dataset(config, SpeechReading(8), vocab_size=384, input_size=(120, 80))


@pytest.fixture(params=[images, captions, recordings])
def corpus(request, tmp_path):
    """Returns a folder, a config of it, and what opens that."""
    root = class_folders(tmp_path / "data", {"cat": 6, "dog": 6})
    config, opened = request.param(root, tmp_path / "cache")
    settle(root)
    return root, config, opened


@pytest.fixture
def no_listing(monkeypatch):
    def refuse():
        def fail(*args):
            pytest.fail("listed again")

        monkeypatch.setattr(os, "walk", fail)
        monkeypatch.setattr(listing, "listed", fail)
        monkeypatch.setattr(folders, "size_of", fail)

    return refuse


def same(one, other):
    parts = [(one.train[0], other.train[0]), (one.validation, other.validation)]
    for mine, theirs in parts:
        assert len(mine) == len(theirs)
        for index in range(len(mine)):
            for name, value in mine[index].items():
                np.testing.assert_array_equal(value, theirs[index][name])
    return one.fingerprint == other.fingerprint and one.about == other.about


def test_what_is_listed_is_found_and_the_same(corpus, no_listing):
    _, config, opened = corpus
    before = opened()
    assert list_files(config)
    no_listing()
    assert same(opened(), before)


def test_a_listing_goes_to_workers_by_its_path(corpus, no_listing):
    _, config, opened = corpus
    list_files(config)
    dataset = opened()
    source = dataset.train[0]._source._source
    no_listing()
    sent = pickle.dumps(source)
    assert b"felix" not in sent
    assert b"5.png" not in sent
    assert b"5.wav" not in sent
    again = pickle.loads(sent)
    assert [again[i].name for i in range(len(again))] == [source[i].name for i in range(len(source))]


@pytest.mark.parametrize("where", ["cat", "cat/inside", "fox"])
def test_a_picture_that_comes_is_seen(where, tmp_path):
    root = class_folders(tmp_path / "data", {"cat": 6, "dog": 6, "fox": 0})
    (root / "cat" / "inside").mkdir()
    settle(root)
    config, opened = images(root, tmp_path / "cache")
    list_files(config)
    before = opened()
    (root / where / "new.png").write_bytes(encoded(picture()))
    after = opened()
    assert len(after.train[0]) + len(after.validation) == 13
    assert after.fingerprint != before.fingerprint
    (root / where / "new.png").unlink()
    assert same(opened(), before)


def test_a_row_that_changes_is_seen(tmp_path):
    root = class_folders(tmp_path / "data", {"cat": 6, "dog": 1})
    config, opened = captions(root, tmp_path / "cache")
    settle(root)
    list_files(config)
    before = opened()
    text = (root / "list.tsv").read_text("utf-8")
    (root / "list.tsv").write_text(text.replace("felix 3", "felix 4"), "utf-8")
    assert opened().fingerprint != before.fingerprint


def test_what_is_rewritten_in_its_place_is_seen_by_listing_again(corpus):
    root, config, opened = corpus
    list_files(config)
    before = opened().fingerprint
    for path in (*root.rglob("*.png"), *root.rglob("*.wav")):
        path.write_bytes(path.read_bytes() + b"x")
    assert opened().fingerprint == before
    list_files(config)
    assert opened().fingerprint != before


@pytest.mark.parametrize("name", ["listing.json", "names.npy", "hashes.npy"])
@pytest.mark.parametrize("content", [b"", b"{}", None])
def test_a_damaged_listing_is_as_none(name, content, corpus):
    _, config, opened = corpus
    before = opened()
    list_files(config)
    [place] = (path for path in (os.scandir(f"{config.cache_dir}/listings")) if path.is_dir())
    if content is None:
        os.unlink(f"{place.path}/{name}")
    else:
        with open(f"{place.path}/{name}", "wb") as file:
            file.write(content)
    assert same(opened(), before)


def test_what_was_written_just_now_is_waited_for(tmp_path):
    root = class_folders(tmp_path / "data", {"cat": 3, "dog": 3})
    begun = time.monotonic()
    config, opened = images(root, tmp_path / "cache")
    list_files(config)
    assert time.monotonic() - begun > 1.9
    assert len(opened().train[0]) == len(opened().train[0])


def test_what_never_settles_is_named(tmp_path, monkeypatch):
    root = class_folders(tmp_path / "data", {"cat": 3, "dog": 3})
    os.utime(root / "dog", (2**33, 2**33))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with pytest.raises(UserError, match="data changes while it is listed: run again"):
        list_files(images(root, tmp_path / "cache")[0])


def test_names_that_are_no_text_are_kept(tmp_path):
    root = class_folders(tmp_path / "data", {"cat": 3, "dog": 3})
    with open(os.fsencode(root / "dog") + b"/\xff.png", "wb") as file:
        file.write(encoded(picture()))
    settle(root)
    config, opened = images(root, tmp_path / "cache")
    list_files(config)
    assert len(opened().train[0]) + len(opened().validation) == 7


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
@settings(deadline=None)
def test_strings_are_a_sequence(strings):
    packed = Strings.of(strings)
    assert list(packed) == strings
    assert packed[1:] == strings[1:]
    assert [packed[-1 - i] for i in range(len(strings))] == strings[::-1]
    with pytest.raises(IndexError):
        packed[len(strings)]


def test_no_text_at_all_is_kept(tmp_path):
    Listing.of(["a", "b"], ["", ""], "f").write(tmp_path, [])
    assert list(Listing.open(tmp_path).values) == ["", ""]
