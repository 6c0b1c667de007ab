"""tools/use.py as people call it: lines of JSON, and one line where something is wrong."""

import io
import json

import pytest

import transformer
from tests.tasks.folders import TEXTS, check_equal, save
from tests.tool_calls import caller, refuser
from tools import use


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("m"), "bert", "ForSequenceClassification", labels=("no", "yes", "naïve"))


@pytest.fixture
def call(capsys):
    return caller(use.main, capsys)


def test_answers_are_lines_of_json(folder, call, tmp_path, monkeypatch):
    pipe = transformer.pipeline(model=folder, top_k=2)
    texts = TEXTS[:3]
    wanted = pipe(texts)

    def told(*args):
        code, out, _ = call(*args, "--option", "top_k=2")
        assert code == 0
        return [json.loads(line) for line in out.splitlines()]

    check_equal(told("auto", folder, *texts), wanted, tolerance=1e-5)
    (tmp_path / "texts.txt").write_text("\n".join(texts) + "\n")
    check_equal(told("sentiment-analysis", folder, "--file", tmp_path / "texts.txt"), wanted, tolerance=1e-5)
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    check_equal(
        told("text-classification", folder, "--file", tmp_path / "texts.jsonl", "--batch-size", 2),
        wanted,
        tolerance=1e-5,
    )
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(texts)))
    check_equal(told("text-classification", folder, "--file", "-"), wanted, tolerance=1e-5)
    pair = {"text": texts[0], "text_pair": texts[1]}
    check_equal(told("text-classification", folder, json.dumps(pair)), [pipe(pair)], tolerance=1e-5)


def test_what_is_refused(folder, capsys, tmp_path):
    refused = refuser(caller(use.main, capsys))
    assert "give inputs, or --file" in refused("auto", folder)
    assert "not both" in refused("auto", folder, "a", "--file", "-")
    assert "no such file" in refused("auto", folder, "--file", tmp_path / "none.txt")
    assert "give NAME=VALUE" in refused("auto", folder, "a", "--option", "top_k")
    assert "did you mean top_k" in refused("auto", folder, "a", "--option", "top=2")
    assert "needs the head token_classification" in refused("ner", folder, "a")
    assert "no task 'nerr'" in refused("nerr", folder, "a")
    assert "no such run or checkpoint" in refused("auto", tmp_path / "none", "a")
    (tmp_path / "bad.jsonl").write_text("{\n")
    assert "line 1 is not JSON" in refused("auto", folder, "--file", tmp_path / "bad.jsonl")
    assert "input 0: a text is empty" in refused("auto", folder, "")
