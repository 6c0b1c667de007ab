"""tools/goodput.py, on a made-up run of four starts."""

import json

import pytest

from tests.tool_calls import caller, refuser
from tools import goodput
from transformer.cluster.phases import PHASES
from transformer.training.goodput import Start


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    (folder / "goodput").mkdir(parents=True)
    (folder / "experiment.json").write_text("{}")
    spent = [
        {"start": 24, "restore": 3, "compile": 95, "data": 40, "step": 870, "save": 20, "evaluation": 30},
        {"start": 31, "restore": 22, "compile": 61},
        {"start": 20, "restore": 25, "compile": 20, "data": 60, "step": 1540, "save": 40, "evaluation": 60},
        {"start": 28, "restore": 25, "compile": 70, "data": 10, "step": 957, "save": 30, "evaluation": 45, "exit": 12},
    ]
    updates = [(0, 900, ((500, 480.0),)), (None, 0, ()), (500, 2100, ((2000, 1440.0),)), (2000, 3000, ((3000, 957.0),))]
    began = 1.7e9
    for number, (seconds, (first, step, saves), gap) in enumerate(
        zip(spent, updates, (35, 60, 400, 0), strict=True), 1
    ):
        seconds = dict.fromkeys(PHASES, 0.0) | seconds
        made = Start(number, began, sum(seconds.values()), seconds, first, step, saves, "node", 2, 16, number == 4)
        (folder / "goodput" / f"{number}.json").write_text(json.dumps(made.to_json()))
        began = made.last_sign + gap
    return folder


def test_what_it_shows(run, tmp_path, capsys):
    call = caller(goodput.main, capsys)
    code, out, err = call(run, "--plot", tmp_path / "goodput.png")
    assert (code, err) == (0, f"{tmp_path / 'goodput.png'}\n")
    assert (tmp_path / "goodput.png").read_bytes().startswith(b"\x89PNG")
    assert "goodput 62.1%: steps 2,877 s of 4,633 s in 4 starts" in " ".join(out.split())
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    assert ["redone", "490.0", "10.6%"] in rows
    assert ["down", "495.0", "10.7%"] in rows
    assert ["in all", "4,633.0", "100.0%"] in rows
    [second] = [row[3:] for row in rows if row[0] == "2"]
    assert second == ["none", "35.0", "0.0", "0.0", "114.0", "149.0", "killed"]
    code, out, _ = call(run, "--json")
    record = json.loads(out)
    assert code == 0
    assert record["goodput"] == pytest.approx(2877 / 4633)
    assert sum(record["shares"].values()) == pytest.approx(1)
    assert [start["resumed_from"] for start in record["starts"]] == [0, None, 500, 2000]
    assert sum(start["wall_seconds"] for start in record["starts"]) == pytest.approx(record["wall_seconds"])


def test_a_damaged_record_is_named_and_the_others_count(run, capsys):
    path = run / "goodput" / "2.json"
    path.write_bytes(path.read_bytes()[:40])
    code, out, err = caller(goodput.main, capsys)(run)
    assert (code, err.splitlines()) == (
        0, [f"{path} is damaged: this start is left out, and what it spent between others counts as down"]
    )  # fmt: skip
    assert "of 4,633 s in 3 starts" in " ".join(out.split())


def test_what_it_refuses(run, tmp_path, capsys):
    refused = refuser(caller(goodput.main, capsys))
    assert "no experiment.json is there: is it a run folder?" in refused(tmp_path)
    for place, words in (("goodput.doc", "not supported"), ("nowhere/goodput.png", "no such folder")):
        line = refused(run, "--plot", tmp_path / place)
        assert f"--plot {tmp_path / place}: " in line
        assert words in line
    (run / "goodput").rename(tmp_path / "elsewhere")
    assert "holds no start: " in refused(run)
