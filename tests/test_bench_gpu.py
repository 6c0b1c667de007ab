"""tools/bench_gpu.py, of tiny models on a processor: each case is a row with figures, or with why there are none."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tools import bench_gpu
from tools.bench_gpu import MODELS, Case, Command, cases, experiment_of
from transformer.errors import UserError

ROOT = Path(__file__).parent.parent


def test_cases_have_names_of_their_own_and_models_the_sizes_that_they_say():
    names = [case.name for case in cases()]
    assert len({*names}) == len(names)
    assert {case.model for case in cases()} == {*MODELS}
    sizes = {case.model: experiment_of(case, tiny=False).model for case in cases()}
    outside = 2 * 128256 * 2048  # the embedding and the head
    assert 0.12e9 < sizes[MODELS[0]].num_params() < 0.13e9
    assert 0.9e9 < sizes[MODELS[1]].num_params() - outside < 1.1e9
    assert sizes[MODELS[2]].num_params() == pytest.approx(4 * 218_112_000 + 2 * 128256 * 4096, rel=1e-3)


def test_rows_are_packed_as_windows_are():
    rows = bench_gpu.records(experiment_of(Case(MODELS[0]), tiny=False), seed=0)
    changes = np.diff(rows["segment_ids"], axis=1)
    assert {*changes.ravel()} == {0, 1}
    np.testing.assert_array_equal(rows["positions"][:, 1:] == 0, changes == 1)
    np.testing.assert_array_equal(np.diff(rows["positions"], axis=1)[changes == 0], 1)


def test_a_case_that_fails_or_takes_too_long_is_a_row_that_says_so():
    tiny = Command(tiny=True, budget=1e9)
    [packed] = bench_gpu.rows_of([next(case for case in cases() if case.attention == "packed")], tiny)
    assert "packed runs on NVIDIA GPUs alone" in packed["note"]
    chosen = cases()[:2]
    late = list(bench_gpu.rows_of(chosen, dataclasses.replace(tiny, most=0.01)))
    assert [row["note"] for row in late] == ["no result in 0 s"] * 2
    assert list(bench_gpu.rows_of(chosen, dataclasses.replace(tiny, budget=1e-9)))[1]["note"] == "no time was left"
    table = list(bench_gpu.table([packed, *late]))
    assert table[0].split()[:2] == ["case", "tokens/s"]
    assert "no result in 0 s" in table[2]


def test_a_name_of_no_case_is_refused():
    with pytest.raises(UserError, match="--only gpt9: no case has that in its name: gpt2-small separate none, "):
        bench_gpu.main(["--only", "gpt9"])


def test_without_a_gpu_it_says_what_to_do():
    with pytest.raises(UserError, match="of the platform cpu, no GPUs: give --tiny"):
        bench_gpu.measured(cases()[0], Command())


@pytest.mark.parametrize(
    "only",
    [
        "small separate none",
        *(pytest.param(each, marks=pytest.mark.exhaustive) for each in ("parity", "pytorch", "packed")),
    ],
)
def test_it_runs_whole_on_a_processor(only, tmp_path):
    path = tmp_path / "rows.json"
    done = subprocess.run(
        [sys.executable, "tools/bench_gpu.py", "--tiny", "--seconds", "0.1", "--budget", "3000", "--most", "600",
         "--only", only, "--json", str(path)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    rows = json.loads(path.read_text())
    assert len(rows) == len([case for case in cases() if only in case.name])
    assert len(done.stdout.splitlines()) == 1 + len(rows)
    assert f"[{len(rows)}/{len(rows)}, " in done.stderr
    for case, row in zip([case for case in cases() if only in case.name], rows, strict=True):
        assert row["case"] == case.name
        if case.attention == "packed":
            assert "NVIDIA" in row["note"]
        elif case.kind == "parity":
            off = [np.abs(np.divide(row["losses"][name], row["losses"]["float32"]) - 1).max() for name in row["losses"]]
            assert off[0] == 0
            assert 0 < off[1] < 1e-3
            assert 0 < off[2] < 1e-2
        else:
            assert row["tokens_per_second"] == pytest.approx(2 * 64 / row["seconds"])
            assert case.kind == "pytorch" or row["planned_seconds"] > 0 < row["planned_bytes"]
