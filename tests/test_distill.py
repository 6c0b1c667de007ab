"""tools/distill.py: a teacher's answers to its training sources, whatever stops it; and what it refuses."""

import json

import pytest

from tests.test_evaluate import run  # noqa: F401 - a run of an encoder-decoder on 200 pairs, whose programs are compiled
from tests.tool_calls import caller, refuser
from tools import distill
from transformer import command
from transformer.data.pairs.files import open_pair_path
from transformer.data.text.config import TextConfig
from transformer.errors import UserError
from transformer.inference import kept_answers
from transformer.inference.beam_search import BeamSearch
from transformer.inference.kept_answers import Answers
from transformer.inference.restored import restore
from transformer.inference.text_generator import TextGenerator

FEW = ["--max-new-tokens", 2, "--beams", 2, "--batch-size", 8]


@pytest.fixture
def call(capsys, monkeypatch):
    monkeypatch.setattr(command, "start_jax", lambda **_: None)
    return caller(distill.main, capsys)


def pairs_of(path, split, fields=("source", "target"), **config):
    return list(open_pair_path(str(path), TextConfig(fields=fields, **config)).pairs(split))


def wanted(run, sources):  # noqa: F811
    answers = TextGenerator(restore(run))(sources, max_new_tokens=2, how=BeamSearch(2))
    return [answer.text for [answer] in answers]


@pytest.mark.exhaustive
def test_a_file_of_the_teachers_answers(call, run, tmp_path):  # noqa: F811
    out = tmp_path / "pairs.jsonl"
    code, said, _ = call(run, out, "--limit", 12, *FEW)
    assert code == 0
    assert "12 pairs in" in said
    data = {"cache_dir": str(tmp_path / "cache")}
    given = pairs_of(run.parent / "train.tsv", "train", fields=None, **data)[:12]
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    names = list(rows[0])
    assert [row[names[0]] for row in rows] == [source for source, _ in given]
    assert [row[names[1]] for row in rows] == wanted(run, [source for source, _ in given])
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["pairs.jsonl"]


def test_a_stop_loses_no_answer(call, run, tmp_path, monkeypatch):  # noqa: F811
    """Half an answer at the end of the file is none; other sources, or other settings, are refused."""
    monkeypatch.setattr(kept_answers, "GROUPS", 1)
    assert call(run, tmp_path / "whole.jsonl", "--limit", 20, *FEW)[0] == 0
    generate = TextGenerator.__call__
    calls = []

    def stopping(self, texts, **options):
        calls.append(len(texts))
        if len(calls) == 2:
            raise UserError("stopped")
        return generate(self, texts, **options)

    monkeypatch.setattr(TextGenerator, "__call__", stopping)
    out = tmp_path / "stopped.jsonl"
    assert call(run, out, "--limit", 20, *FEW)[0] == 2
    kept = tmp_path / ".stopped.jsonl.answers"
    assert not out.exists()
    assert len(kept.read_text().splitlines()) == 1 + 8
    kept.write_text(kept.read_text() + '"half')
    assert "holds the answers of another teacher" in refuser(call)(run, out, "--limit", 20, *FEW[2:])
    code, said, _ = call(run, out, "--limit", 20, *FEW)
    assert code == 0
    assert "8 of 20 sources are answered already" in said
    assert calls[2:] == [8, 4]
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not kept.exists()


def test_a_folder_holds_the_validation_pairs_as_they_are(call, run, tmp_path):  # noqa: F811
    out, truth = tmp_path / "pairs", run.parent / "train.tsv"
    assert call(run, out, "--limit", 12, *FEW)[0] == 0
    data = {"cache_dir": str(tmp_path / "cache")}
    have = {split: pairs_of(out, split, ("en", "de"), **data) for split in ("train", "validation")}
    want = {split: pairs_of(truth, split, fields=None, **data) for split in ("train", "validation")}
    assert have["validation"] == want["validation"]
    answers = wanted(run, [source for source, _ in want["train"][:12]])
    kept = [(pair[0], answer) for pair, answer in zip(want["train"], answers, strict=False) if answer.strip()]
    assert have["train"] == [(source, " ".join(answer.split())) for source, answer in kept]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data.fields", "a", "b"], "--data.fields is of --data.path"),
        (["--limit", "0"], "--limit is 0: it must be at least 1"),
        (["--beams", "0"], "--beams is 0: it must be at least 1"),
    ],
)
def test_bad_flags_are_one_line(call, run, tmp_path, flags, message):  # noqa: F811
    assert message in refuser(call)(run, tmp_path / "out.jsonl", *flags)


def test_a_folder_that_is_not_empty_is_refused(call, run, tmp_path):  # noqa: F811
    (tmp_path / "file").write_text("")
    assert "is not empty" in refuser(call)(run, tmp_path)


def test_answers_in_another_order_are_not_taken(tmp_path):
    answers = Answers(tmp_path / "a", {"sources": "x"})
    answers.answer(["1", "2", "3"], lambda texts: [text * 2 for text in texts], size=2)
    assert Answers(tmp_path / "a", {"sources": "x"}).done == ["11", "22", "33"]
    with pytest.raises(UserError, match="another teacher"):
        Answers(tmp_path / "a", {"sources": "y"})
