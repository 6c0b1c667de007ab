import errno
import gzip
import json
import lzma
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.data.corpus import build_store, documents
from transformer.data.text import build, shards
from transformer.data.text.config import TextConfig
from transformer.data.text.sources import open_path
from transformer.data.text.store import TokenStore
from transformer.errors import UserError
from transformer.tokenizers.raw_bytes import ByteTokenizer

from .corpus import make_text


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "c.jsonl"
    texts = [make_text(1 + i % 7, seed=i) for i in range(60)] + [make_text(9000)]  # the last one is several pieces
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*texts, "", "é\0"]))
    return open_path(str(path), TextConfig(validation_fraction=0.2, cache_dir=str(tmp_path / "cache")))


def hidden_leftovers(cache):
    return [path for path in (cache / "stores").iterdir() if "building" in path.name]


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_store_holds_every_document(source, tmp_path, split, monkeypatch):
    monkeypatch.setattr(shards, "_BATCH_PARTS", 4)
    tok = ByteTokenizer()
    store = build_store(source, split, tok, tmp_path / "cache")
    texts = list(documents(source, split))
    found = [store.tokens[a:b] for a, b in zip(store.offsets[:-1], store.offsets[1:], strict=True)]
    assert [document[0] for document in found] == [tok.bos_id] * len(texts)
    assert [document[-1] for document in found] == [tok.eos_id] * len(texts)
    assert [tok.decode(document[1:-1]) for document in found] == texts
    assert store.tokens.dtype == np.uint16
    text = "".join(texts).encode()
    assert (store.meta.documents, store.meta.tokens, store.meta.text_bytes) == (
        len(texts),
        len(store.tokens),
        len(text),
    )
    if split == "validation":
        assert store.meta.gzip9_bytes == len(gzip.compress(text, 9))
        assert store.meta.xz9_bytes == len(lzma.compress(text, preset=9))
    assert hidden_leftovers(tmp_path / "cache") == []


def test_a_store_is_found_again_and_a_damaged_one_is_rebuilt(source, tmp_path, monkeypatch, capsys):
    tok, cache = ByteTokenizer(), tmp_path / "cache"
    first = build_store(source, "train", tok, cache)
    make = build.make_shard
    monkeypatch.setattr(build, "make_shard", lambda *_: pytest.fail("built again"))
    np.testing.assert_array_equal(build_store(source, "train", tok, cache).tokens, first.tokens)

    [folder] = (path for path in (cache / "stores").iterdir() if path.is_dir())
    os.truncate(folder / "00000.shard", 1000)
    with pytest.raises(UserError, match=r"not a whole token store\. Delete it"):
        TokenStore.open(folder)
    monkeypatch.setattr(build, "make_shard", make)
    assert build_store(source, "train", tok, cache).meta == first.meta
    assert "damaged" in capsys.readouterr().err


@pytest.mark.parametrize("file", ["manifest.json", "00000.shard"])
def test_a_store_without_a_file_is_refused(source, tmp_path, file):
    build_store(source, "validation", ByteTokenizer(), tmp_path)
    [folder] = (path for path in (tmp_path / "stores").iterdir() if path.is_dir())
    (folder / file).unlink()
    with pytest.raises(UserError, match="Delete it"):
        TokenStore.open(folder)


def test_a_full_disk_is_one_line_and_leaves_nothing(source, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=f"No space left in {tmp_path}"):
        build_store(source, "train", ByteTokenizer(), tmp_path)
    assert [path for path in (tmp_path / "stores").iterdir() if path.is_dir()] == []


def test_a_folder_that_cannot_be_written_is_one_line(source, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UserError, match="Cannot write to"):
        build_store(source, "train", ByteTokenizer(), tmp_path / "cache")


def test_text_that_cannot_be_read_leaves_nothing(tmp_path):
    (tmp_path / "bad.txt").write_bytes(b"line\n" * 500_000 + b"\xff\n" + b"line\n" * 500_000)
    source = open_path(str(tmp_path / "bad.txt"), TextConfig())
    with pytest.raises(UserError, match="not UTF-8"):
        build_store(source, "train", ByteTokenizer(), tmp_path)
    assert [path for path in (tmp_path / "stores").iterdir() if path.is_dir()] == []


# A builder that stalls in the middle of writing when told to, as a large corpus would.
_BUILD = """
import sys, time
from transformer.data.text import build
from transformer.tokenizers.raw_bytes import ByteTokenizer
from transformer.data.text.config import TextConfig
from transformer.data.text.sources import open_path
cache, path, stall = sys.argv[1:]
class Slow(ByteTokenizer):
    def encode_batch(self, texts):
        if stall == "stall":
            print("writing", flush=True)
            time.sleep(60)
        return super().encode_batch(texts)
build.find_or_build(open_path(path, TextConfig(validation_fraction=0.2, cache_dir=cache)), "train", Slow(), cache)
assert "jax" not in sys.modules and "grain" not in sys.modules
"""


def start_build(cache, source, stall):
    command = [sys.executable, "-W", "error", "-c", _BUILD, str(cache), source.name, stall]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_a_killed_build_leaves_nothing_that_passes_for_a_store(source, tmp_path):
    cache = tmp_path / "cache"
    with start_build(cache, source, "stall") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        process.send_signal(signal.SIGKILL)
    [leftover] = hidden_leftovers(cache)
    with pytest.raises(UserError, match="Delete it"):
        TokenStore.open(leftover)
    store = build_store(source, "train", ByteTokenizer(), cache)
    assert hidden_leftovers(cache) == []
    assert store.meta.documents == len(list(documents(source, "train")))


def test_two_builds_at_once_make_one_store(source, tmp_path):
    processes = [start_build(tmp_path, source, "") for _ in range(2)]
    started = time.monotonic()
    for process in processes:
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 0, (stderr, time.monotonic() - started)
    assert len([path for path in (tmp_path / "stores").iterdir() if path.is_dir()]) == 1
