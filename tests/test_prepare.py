"""tools/prepare.py: what a run reads is made before it, and is checked by content."""

import json
import os

import pytest

import train
from tests.data.images.pictures import class_folders
from tests.tool_calls import caller, refuser
from tools import prepare
from transformer.data.text import build


@pytest.fixture
def call(capsys):
    return caller(prepare.main, capsys)


@pytest.fixture
def flags(tmp_path):
    texts = [f"document {i}: to be, or not to be, that is question {i % 7}" * 3 for i in range(200)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    os.utime(path, (10**9, 10**9))
    cache = ("--data.cache-dir", str(tmp_path / "cache"))
    return ["gpt-text", "--data.path", str(path), "--data.tokenizer", "bytes", "--train.seq-len", "32", *cache]


def test_what_was_prepared_is_what_a_run_finds(call, flags, monkeypatch, tmp_path):
    code, out, err = call(*flags)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert "(train): " in lines[0]
    assert "tokens/s" in lines[0]
    assert "documents" in lines[0]
    assert str(tmp_path / "cache" / "stores") in lines[0]
    monkeypatch.setattr(build, "make_shard", lambda *_: pytest.fail("built again"))
    _, out, _ = call(*flags)
    assert out.count("(was there)") == 2
    from transformer.training.session import Session

    chosen = train.parse([*flags, "--workdir", str(tmp_path / "run")])
    assert list(Session(chosen.experiment).dataset.about.identity["sources"]) == [flags[2]]


def test_verifying_says_what_differs(call, flags, tmp_path):
    assert call(*flags, "--verify")[0] == 2
    call(*flags)
    code, out, err = call(*flags, "--verify")
    assert (code, err) == (0, "")
    assert "as recorded" in out
    path = tmp_path / "a.jsonl"
    path.write_text(path.read_text().replace("question", "QUESTION", 1))
    os.utime(path, (10**9, 10**9))
    assert "(was there)" in call(*flags)[1]
    code, _, err = call(*flags, "--verify")
    assert code == 2
    assert err.count("\n") == 1
    assert f"{path} has another content" in err
    assert "(was there)" not in call(*flags)[1]


def test_mistakes_are_one_line(capsys, call, flags):
    refused = refuser(call)
    assert "--workers 0" in refused(*flags, "--workers", "0")
    assert "one of them" in refused(*flags, "--workers", "2", "--beam")
    assert "--runner=DirectRunner" in refused(*flags, "--", "--runner=DirectRunner")
    assert "no-such" in refused("no-such", *flags[1:])
    assert "--model.widht" in refused(*flags, "--model.widht", "3")


def test_images_are_listed(call, tmp_path):
    root = class_folders(tmp_path / "data", {"cat": 6, "dog": 6})
    for path in (root, *root.iterdir()):
        os.utime(path, (10**9, 10**9))
    flags = ["vit-digits", "--data.path", str(root), "--data.cache-dir", str(tmp_path / "cache")]
    code, out, err = call(*flags)
    assert (code, err) == (0, "")
    assert "to validate of 2 classes; listed in " in out
    assert len([path for path in (tmp_path / "cache" / "listings").iterdir() if path.is_dir()]) == 1
    refused = refuser(call)
    assert "are for text" in refused(*flags, "--verify")
    assert "vit-digits reads no files" in refused("vit-digits", "--data.cache-dir", str(tmp_path / "cache"))
