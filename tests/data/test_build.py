"""A store is the same to the byte whoever makes its shards; what was finished outlives a build that is stopped."""

import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data.corpus import build_store, documents
from tests.exhaustive import few
from transformer.atomic import building_folder
from transformer.data.pairs.mixture import open_pairs
from transformer.data.pairs.rows import PairReading, PairRows
from transformer.data.text import build, readable
from transformer.data.text.build_beam import Beam
from transformer.data.text.build_workers import Workers
from transformer.data.text.config import TextConfig
from transformer.data.text.sources import open_path
from transformer.data.text.store import TokenStore
from transformer.data.text.windows import TextWindows, Windows
from transformer.errors import UserError
from transformer.tokenizers.raw_bytes import ByteTokenizer

from .corpus import make_text

SPLITS = ("train", "validation")


def open_corpus(path, cache, part_bytes):
    """A corpus that is cut into parts of about so many bytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readable, "PART_BYTES", part_bytes)
        return open_path(str(path), TextConfig(validation_fraction=0.3, cache_dir=str(cache)))


def write_jsonl(path, texts, end="\n"):
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts) + end)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def corpus(tmp_path):
    root = tmp_path / "corpus"
    root.mkdir()
    for i in range(9):
        (root / f"{i}.txt").write_text(make_text(10 + 9 * i, i))
        write_jsonl(root / f"{i}.jsonl", [make_text(1 + j % 7, 100 * i + j) for j in range(40)])
    return root


documents_lists = st.lists(st.text(max_size=30) | st.sampled_from(["", " ", "é" * 40, "\n\n", "😀"]), max_size=12)


@pytest.fixture
def no_compressing(monkeypatch):
    """What xz makes of the validation text takes seconds, and is the business of another test."""
    monkeypatch.setattr(build, "_compressed", lambda pieces: (0, 0, 0))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.usefixtures("no_compressing")
@given(
    st.lists(documents_lists, min_size=1, max_size=4), st.lists(st.text(max_size=60), max_size=3), st.integers(1, 200)
)
def test_shards_are_the_one_stream_cut_between_documents(tmp_path_factory, files, texts, part_bytes):
    root = tmp_path_factory.mktemp("shards")
    (root / "corpus").mkdir()
    for i, lines in enumerate(files):
        write_jsonl(root / "corpus" / f"{i}.jsonl", lines, end="\n" * (i % 2))
    for i, text in enumerate(texts):
        (root / "corpus" / f"{i}.txt").write_text(text.replace("\0", ""))

    def built(size):
        try:
            source = open_corpus(root / "corpus", root / str(size), size)
            stores = [build_store(source, split, ByteTokenizer(), root / str(size)) for split in SPLITS]
        except UserError as error:
            return str(error).replace(str(root / str(size)), "")
        for store, split in zip(stores, SPLITS, strict=True):
            assert store.meta.documents == len(list(documents(source, split)))
            assert store.meta.text_bytes == sum(len(text.encode()) for text in documents(source, split))
        return stores

    one, many = built(1 << 28), built(part_bytes)
    if isinstance(one, str) or isinstance(many, str):
        assert one == many
        return
    for whole, cut in zip(one, many, strict=True):
        assert whole.meta == cut.meta
        assert len(list(whole.folder.glob("*.shard"))) == 1
        np.testing.assert_array_equal(whole.tokens[:], cut.tokens[:])
        np.testing.assert_array_equal(whole.offsets[:], cut.offsets[:])


@pytest.mark.exhaustive
@pytest.mark.usefixtures("no_compressing")
def test_workers_and_beam_make_the_same_files(corpus, tmp_path):
    tok, expected = ByteTokenizer(), None
    makers = (("here", None, 2), ("two", Workers(2), 2), ("three", Workers(3), 1), ("beam", Beam([]), 1))
    for name, maker, count in makers:
        splits = SPLITS[:count]
        source = open_corpus(corpus, tmp_path / name, 4000)
        stores = [build_store(source, split, tok, tmp_path / name, maker) for split in splits]
        files = [contents(store.folder) for store in stores]
        expected = expected or files
        assert files == expected[:count]
        assert len(files[0]) > 10
        assert not [path for path in (tmp_path / name / "stores").iterdir() if path.name.endswith(".building")]


def test_pairs_in_shards_belong_to_each_other(tmp_path):
    root = tmp_path / "in"
    root.mkdir()
    lines = [f"{i} {'x' * (i % 13)}" for i in range(300)]
    for field in ("en", "de"):
        (root / f"train.{field}").write_text(
            "".join(f"{field} {line}\n" if i % 17 else "\n" for i, line in enumerate(lines))
        )
    (tmp_path / "a.tsv").write_text("".join(f"en {line}\tde {line}\n\n" for line in lines))
    for path, fields in ((root, ("en", "de")), (tmp_path / "a.tsv", None)):
        found = []
        for size in (1 << 28, 500):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(readable, "PART_BYTES", size)
                config = TextConfig(path=str(path), fields=fields, cache_dir=str(tmp_path / f"{path.name}{size}"))
                [(pairs, _)] = open_pairs(config)
            stores = [build_store(side, "train", ByteTokenizer(), config.cache_dir) for side in pairs.sides]
            rows = PairRows(*stores, PairReading(64, target_length=64))
            found.append([store.tokens[:] for store in stores] + [rows[i]["tokens"] for i in range(len(rows))])
            assert len(list(stores[0].folder.glob("*.shard"))) == (1 if size > 500 else len(pairs.parts("train")))
            again = pickle.loads(pickle.dumps(rows))
            np.testing.assert_array_equal(again[1]["target_tokens"], rows[1]["target_tokens"])
        assert len(pairs.parts("train")) > 5
        for one, many in zip(*found, strict=True):
            np.testing.assert_array_equal(one, many)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    root = tmp_path_factory.mktemp("sharded")
    write_jsonl(root / "a.jsonl", [make_text(1 + i % 5, i)[: i % 40 * 5] for i in range(300)])
    return build_store(open_corpus(root / "a.jsonl", root, 1500), "train", ByteTokenizer(), root)


@given(st.data())
def test_a_store_in_shards_reads_like_arrays_in_memory(sharded, data):
    tokens, offsets = sharded.tokens[:], sharded.offsets[:]
    for stream, whole in ((sharded.tokens, tokens), (sharded.offsets, offsets)):
        size = len(whole)
        start, stop = (data.draw(st.integers(-size - 2, size + 2)) for _ in range(2))
        np.testing.assert_array_equal(stream[start:stop], whole[start:stop])
        places = np.array(data.draw(st.lists(st.integers(0, size - 1), max_size=9)), np.int64)
        np.testing.assert_array_equal(stream[places], whole[places])
        place = data.draw(st.integers(-size, size - 1))
        assert stream[place] == whole[place]
        with pytest.raises(IndexError):
            stream[size]
    value = data.draw(st.sampled_from(offsets.tolist()) | st.integers(0, len(tokens) + 2))
    for side in ("left", "right"):
        assert sharded.offsets.searchsorted(value, side=side) == np.searchsorted(offsets, value, side=side)
    memory = TokenStore(tokens, offsets, sharded.meta)
    length = data.draw(st.integers(1, 300))
    for make in (lambda s: TextWindows(s, length, False), lambda s: Windows(s, length + 1, 1, False)):
        ours, theirs = make(sharded), make(memory)
        index = data.draw(st.integers(0, len(ours) - 1))
        for name, values in theirs[index].items():
            np.testing.assert_array_equal(ours[index][name], values)


def test_a_store_is_pickled_as_its_folder(sharded):
    data = pickle.dumps(sharded)
    assert len(data) < 500
    np.testing.assert_array_equal(pickle.loads(data).tokens[5:300], sharded.tokens[5:300])


def building(cache, split="train"):
    [folder] = (cache / "stores").glob(f".{split}-*.building")
    return folder


def records(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("[0-9]*.json")}


def test_a_full_disk_keeps_the_shards_that_were_finished(corpus, tmp_path, monkeypatch):
    source, tok, synced = open_corpus(corpus, tmp_path, 4000), ByteTokenizer(), []

    def full(descriptor):
        synced.append(descriptor)
        if len(synced) > 5:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match=f"No space left in {tmp_path}"):
            build_store(source, "train", tok, tmp_path)
    folder = building(tmp_path)
    assert len(records(folder)) == 5
    assert sorted(path.suffix for path in folder.iterdir()) == [".json"] * 5 + [".shard"] * 5
    made = []
    make = build.make_shard
    monkeypatch.setattr(build, "make_shard", lambda *args: made.append(args[1]) or make(*args))
    store = build_store(source, "train", tok, tmp_path)
    assert made == list(range(5, len(source.parts("train"))))
    fresh = build_store(open_corpus(corpus, tmp_path / "fresh", 4000), "train", tok, tmp_path / "fresh")
    assert contents(store.folder) == contents(fresh.folder)


@pytest.mark.usefixtures("no_compressing")
def test_a_corpus_that_changes_while_it_is_tokenised_leaves_nothing(corpus, tmp_path, monkeypatch):
    source = open_corpus(corpus, tmp_path, 4000)
    make = build.make_shard

    def changing(*args):
        if args[1] == 5:
            (corpus / "7.txt").write_text("other")
        return make(*args)

    monkeypatch.setattr(build, "make_shard", changing)
    with pytest.raises(UserError, match="changed while it was tokenised"):
        build_store(source, "train", ByteTokenizer(), tmp_path)
    assert [path for path in (tmp_path / "stores").iterdir() if path.is_dir()] == []


def test_a_bad_line_in_a_late_shard_is_one_line(corpus, tmp_path):
    path = corpus / "7.jsonl"
    path.write_text(path.read_text() + "{oops\n" * 4)  # one of them at least is in the training text
    for maker in (None, Workers(2), Beam([])):
        with pytest.raises(UserError, match=rf"^{path}:4[1-4]: not JSON .*\.$"):
            build_store(open_corpus(corpus, tmp_path, 4000), "train", ByteTokenizer(), tmp_path, maker)
        assert len(records(building(tmp_path))) > 3


def test_a_file_that_cannot_be_read_ends_the_reading_of_others():
    begun = time.monotonic()
    with pytest.raises(TypeError):
        list(Workers(2).map(time.sleep, ["no number", 300, 300, 300]))
    assert time.monotonic() - begun < 100


# As tools/prepare.py, without the model's libraries: two workers, on a corpus that takes them a minute.
# Who was started in the background of a shell would pass over SIGINT.
_BUILD = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from tests.data.slow_source import SlowSource
from transformer import command
from transformer.data.text import readable
from transformer.data.text.build import find_or_build
from transformer.data.text.build_workers import Workers
from transformer.tokenizers.raw_bytes import ByteTokenizer
from transformer.data.text.config import TextConfig
from transformer.data.text.sources import open_path
readable.PART_BYTES = 1 << 19
def main():
    source = open_path(sys.argv[1], TextConfig(validation_fraction=0.3, cache_dir=sys.argv[2]))
    source.__class__ = SlowSource
    find_or_build(source, "train", ByteTokenizer(), sys.argv[2], Workers(2))
if __name__ == "__main__":
    sys.exit(command.run(main))
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    root = tmp_path_factory.mktemp("large")
    texts = [make_text(200, i) for i in range(20)]
    write_jsonl(root / "a.jsonl", [texts[i % 20] + str(i) for i in range(4000)])
    return root / "a.jsonl"


def started(large, cache):
    """A build that has finished a shard, and the processes that it started."""
    process = subprocess.Popen(
        [sys.executable, "-c", _BUILD, str(large), str(cache)], stderr=subprocess.PIPE, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while not list((cache / "stores").glob(".train-*.building/[0-9]*.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return process, [int(child) for child in children]


def runs(pid):
    try:
        return "Z (zombie)" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def wait_for_end(pids):
    deadline = time.monotonic() + 30
    while any(map(runs, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for children in /proc")
@pytest.mark.parametrize("stop", few(["kill", "interrupt", "kill a worker"], "kill"))
def test_a_build_that_is_stopped_goes_on_with_the_other_shards(large, tmp_path, stop):
    process, children = started(large, tmp_path)
    if stop == "kill":
        process.kill()
    elif stop == "interrupt":
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does: the workers get it too
    else:
        os.kill(children[-1], signal.SIGKILL)
    _, stderr = process.communicate(timeout=60)
    wait_for_end(children)
    lines = stderr.decode().splitlines()
    if stop == "kill":
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 2, lines
        assert len(lines) == 1, lines
        assert ("interrupted" if stop == "interrupt" else "A worker process was killed") in lines[0]
        assert not list(building(tmp_path).glob(".*.partial"))
    finished = records(building(tmp_path))
    source = open_corpus(large, tmp_path, 1 << 19)
    assert 0 < len(finished) < len(source.parts("train"))
    made = []
    with pytest.MonkeyPatch.context() as patch:
        make = build.make_shard
        patch.setattr(build, "make_shard", lambda *args: made.append(f"{args[1]:05}.json") or make(*args))
        store = build_store(source, "train", ByteTokenizer(), tmp_path)
    assert len(made) == len(source.parts("train")) - len(finished)
    assert not set(made) & set(finished)
    assert not building_folder(store.folder).exists()
    assert store.meta.documents == len(list(documents(source, "train")))
