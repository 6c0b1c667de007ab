"""A run that goes on, on another corpus than it began with: refused by field, unless it is said to be meant."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from tools.crash import write_corpus
from transformer.data.prepare import prepare
from transformer.data.text.config import TextConfig
from transformer.data.text.mixture import shares
from transformer.errors import UserError
from transformer.objectives.causal_lm import CausalLM
from transformer.training import beginning, corpus_record
from transformer.training import experiment as experiments
from transformer.training.lock import RunLock
from transformer.training.run import Run
from transformer.transfer.config import InitConfig

TEXT = "".join(f"the {number}th line of a play\n" for number in range(200))


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """A file and a folder; the folder that the file lies in is the one that a command is typed in."""
    (tmp_path / "plays.txt").write_text(TEXT)
    write_corpus(tmp_path / "folder")
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Starts:
    """Starts of one run, without the training."""

    def __init__(self, experiment, workdir):
        self.experiment, self.workdir = experiment, workdir

    def __call__(self, **data) -> list[str]:
        """Begins the run, or goes on; returns what is said."""
        said: list[str] = []
        config = dataclasses.replace(self.experiment.data, **{"path": None, "tokenizer": "bytes"} | data)
        experiment = experiments.absolute(dataclasses.replace(self.experiment, data=config))
        reading = CausalLM().reading(32)
        with RunLock(Run(self.workdir).folder) as lock:
            run = Run(self.workdir)
            begun = beginning.inspect(run, lock, experiment, said.append)
            prepared = prepare(experiment.data, vocab_size=384, reading=reading)
            self.record = beginning.begin(run, lock, experiment, prepared, begun=begun, report=said.append)
        (self.workdir / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')  # something was learnt
        return said


@pytest.fixture
def start(experiment, corpus):
    return Starts(experiment, corpus / "run")


def refusal(start, **data) -> str:
    before = (start.workdir / "data.json").read_bytes()
    with pytest.raises(UserError) as refused:
        start(**data)
    assert (start.workdir / "data.json").read_bytes() == before
    return str(refused.value)


@pytest.mark.parametrize("change", [lambda text: "a line before\n" + text, lambda text: text + "a line after\n"])
def test_lines_before_or_after(change, start, corpus):
    assert start(path="plays.txt") == []
    assert start(path="plays.txt") == []
    (corpus / "plays.txt").write_text(change(TEXT))
    said = refusal(start, path="plays.txt")
    assert said.startswith(
        f"data.path {corpus}/plays.txt: its content is another than when this run began (recorded fingerprint "
    )
    assert said.endswith("or say that it is meant: --data.changed True")
    [line] = start(path="plays.txt", changed=True)
    assert line.endswith("as --data.changed says")
    # It holds for one start, and what it changed is recorded.
    assert json.loads((start.workdir / "experiment.json").read_text())["data"]["changed"] is False
    assert start(path="plays.txt") == []
    (corpus / "plays.txt").write_text(TEXT)
    assert "its content is another" in refusal(start, path="plays.txt")


def test_a_file_of_a_folder_that_is_swapped(start, corpus):
    assert start(path="folder") == []
    (corpus / "folder" / "07.txt").write_text("another text altogether\n" * 20)
    assert refusal(start, path="folder").startswith(f"data.path {corpus}/folder: its content is another")


def test_another_folder_to_type_the_command_in(start, corpus, monkeypatch):
    """The recorded path is the first one's, from wherever the command is typed."""
    start(path="plays.txt")
    other = corpus / "elsewhere"
    other.mkdir()
    (other / "plays.txt").write_text(TEXT.upper())
    monkeypatch.chdir(other)
    recorded = experiments.read(Run(start.workdir).experiment_path)
    assert recorded.data.path == str(corpus / "plays.txt")
    assert start(path=recorded.data.path) == []
    said = refusal(start, path="plays.txt")
    assert f"data.path was '{corpus}/plays.txt', now '{other}/plays.txt'" in said
    lines = start(path="plays.txt", changed=True)
    assert f"data.path is '{other}/plays.txt' from here on (it was '{corpus}/plays.txt')" in lines
    assert any("its content is another" in line for line in lines)


def test_a_relative_path_of_an_older_record(start, corpus):
    start(path="plays.txt")
    path = start.workdir / "experiment.json"
    record = json.loads(path.read_text())
    record["data"]["path"] = "plays.txt"
    del record["data"]["changed"]
    path.write_text(json.dumps(record))
    assert start(path=str(corpus / "plays.txt")) == []
    assert json.loads(path.read_text())["data"]["path"] == str(corpus / "plays.txt")


def test_an_older_run_is_recorded_now(start, corpus):
    start(path="plays.txt")
    (start.workdir / "data.json").unlink()
    [line] = start(path="plays.txt")
    assert line.startswith(f"{start.workdir}/data.json is written now")
    # Of a copy that holds a checkpoint alone, the checkpoint knows.
    record = start.workdir / "checkpoints" / "3" / "record"
    record.mkdir(parents=True)
    shutil.move(start.workdir / "data.json", record)
    (corpus / "plays.txt").write_text(TEXT + "more\n")
    with pytest.raises(UserError, match="its content is another"):
        start(path="plays.txt")


def test_a_mixture_is_told_source_by_source(start, corpus):
    mixture = ("plays.txt=1", "folder=2")
    start(mixture=mixture)
    assert list(json.loads(start.record["data.json"])["sources"]) == [
        f"{corpus}/plays.txt",
        f"{corpus}/folder",
    ]
    (corpus / "folder" / "07.txt").write_text("another\n" * 20)
    said = refusal(start, mixture=mixture)
    assert said.startswith(f"data.mixture {corpus}/folder: its content")
    assert "plays.txt" not in said


def test_a_data_set_is_told_by_its_content():
    config = TextConfig(tfds="python_stdlib")
    assert shares(config) == [("tfds:python_stdlib", 1.0)]
    recorded = {"sources": {"tfds:python_stdlib": "a" * 40}, "tokenizer": "t"}
    assert corpus_record.differences(recorded, recorded, config) == []
    now = recorded | {"sources": {"tfds:python_stdlib": "b" * 40}}
    [line] = corpus_record.differences(recorded, now, config)
    assert line.startswith("data.tfds python_stdlib: its content is another")
    [line] = corpus_record.differences(recorded, recorded | {"tokenizer": "u"}, config)
    assert line == "the tokenizer gives other ids than when this run began"


def test_paths_in_full_follow_no_link(experiment, corpus):
    (corpus / "link.txt").symlink_to("plays.txt")
    data = TextConfig(path="link.txt", mixture=("~/a.txt=1", "tfds:x=2"), tokenizer="own/tokenizer.json")
    full = experiments.absolute(
        dataclasses.replace(experiment, data=data, init=InitConfig(path="gs://bucket/run"))
    ).data
    assert full.path == str(corpus / "link.txt")
    assert full.mixture == (f"{Path.home()}/a.txt=1", "tfds:x=2")
    assert full.tokenizer == str(corpus / "own" / "tokenizer.json")
