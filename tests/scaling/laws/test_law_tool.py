"""tools/scaling.py as people meet it: what it prints and writes, its exit codes, one line for each mistake."""

import csv
import itertools
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from transformer.scaling.laws import synthetic
from transformer.scaling.laws.coverage import TRUTH
from transformer.scaling.laws.power_law import STEP_LEARNING_RATE
from transformer.scaling.laws.repeat import Repeat

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A study with a known truth, one run diverged, columns with names of their own."""
    path = tmp_path_factory.mktemp("scaling") / "runs.csv"
    runs = synthetic.study(TRUTH, np.geomspace(1e8, 6e9, 5)[:, None], np.geomspace(2e9, 2e11, 4), noise=0.003)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["N", "D", "C", "final"])
        for row in zip(runs.params, runs.tokens, runs.flops, runs.loss, strict=True):
            writer.writerow(row)
        writer.writerow([1e9, 1e10, 6e19, 11.0])
    return path


def test_one_law(call, table, tmp_path):
    law, columns = tmp_path / "law.json", ("--params", "N", "--tokens", "D", "--loss", "final")
    options = ("--law", "chinchilla", "--drop-highest", 1, "--bootstrap", 100, "--json", law)
    code, out, _ = call("fit", "--table", table, *columns, *options)
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith(f"{table}: 20 runs, params 1e+08 to 6e+09, ")
    assert "  converged: gradient" in out
    [shown] = [line.split() for line in lines if line.startswith("  alpha ")]
    record = json.loads(law.read_text())
    assert shown[1] == f"{record['alpha']:.5g}"
    low, high = record["intervals"]["alpha"]
    assert shown[3:] == [f"[{low:.4g},", f"{high:.4g}]"]
    assert low < TRUTH.alpha < high
    assert record["table"]["columns"]["params"] == "N"

    code, out, _ = call("predict", law, "--params", "1e10", "--tokens", "2e11")
    assert code == 0
    assert float(out.splitlines()[1].split()[1]) == pytest.approx(float(TRUTH.loss(1e10, 2e11)), rel=0.01)
    assert "extrapolation: params 1e+10 is 0.22 decades above" in out

    code, out, _ = call("predict", tmp_path, "--flops", "1e23")  # a study's folder
    assert code == 0
    shown = dict(line.split()[:2] for line in out.splitlines()[1:5])
    assert float(shown["N"]) == pytest.approx(TRUTH.optimum(1e23).params, rel=0.5)
    assert "extrapolation: flops 1e+23 is 1.14 decades above" in out
    assert "known better than the size" in out


def test_flops_in_place_of_tokens_give_the_same(call, table, tmp_path):
    for name, column in (("tokens", "D"), ("flops", "C")):
        columns = ("--params", "N", f"--{name}", column, "--loss", "final")
        code, *_ = call(
            "fit", "--table", table, *columns, "--law", "chinchilla", "--bootstrap", 0, "--json", tmp_path / name
        )
        assert code == 0
    laws = [json.loads((tmp_path / name).read_text()) for name in ("tokens", "flops")]
    np.testing.assert_allclose([laws[0][key] for key in "EABa"], [laws[1][key] for key in "EABa"], rtol=1e-6)
    assert laws[0]["warnings"][0]["code"] == "outliers"
    assert "line 22" in laws[0]["warnings"][0]["message"]


def test_every_law_side_by_side(call, table, tmp_path):
    columns = ("--params", "N", "--tokens", "D", "--loss", "final")
    code, out, _ = call("fit", "--table", table, *columns, "--bootstrap", 5, "--json", tmp_path / "law.json")
    assert code == 0
    compared = out[out.index("\na decade on") + 1 : out.index("not fitted:")]
    assert [line.split()[0] for line in compared.splitlines()[1:] if line] == [
        "chinchilla",
        "envelope",
        "kaplan",
        "overtrain",
    ]
    assert "  isoflop: needs budgets of three sizes" in out[out.index("not fitted:") :]
    assert "  repeat: the table does not say how many tokens are unique" in out
    code, out, _ = call("predict", tmp_path / "law.json", "--law", "kaplan", "--flops", "1e22")
    assert code == 0
    assert out.startswith("kaplan, C 1e+22")


def test_mistakes(refused, table, tmp_path):
    columns = ("--params", "N", "--tokens", "D", "--loss", "final")
    assert "--law chinchila: no such law; did you mean chinchilla?" in refused(
        "fit", "--table", table, *columns, "--law", "chinchila"
    )
    assert "no column for the loss (--loss); its columns are: N, D, C, final" in refused(
        "fit", "--table", table, "--params", "N", "--tokens", "D"
    )
    assert "--bootstrap -1" in refused("fit", "--table", table, *columns, "--bootstrap", -1)
    assert "no such folder" in refused("fit", "--table", table, *columns, "--json", tmp_path / "no" / "law.json")
    assert "no such file" in refused("predict", tmp_path / "law.json", "--flops", "1e21")
    (tmp_path / "one.csv").write_text("params,tokens,loss\n1e8,1e9,3\n")
    assert "no law can be fitted to this table; chinchilla" in refused("fit", "--table", tmp_path / "one.csv")
    for flags in ((), ("--params", 1e9), ("--params", 1e9, "--tokens", 1e9, "--flops", 1e9)):
        assert "takes --params and --tokens" in refused("predict", tmp_path / "law.json", *flags)
    assert "--flops -1.0: it must be positive" in refused("predict", tmp_path / "law.json", "--flops", "-1")


def test_a_corpus_that_is_read_more_than_once(call, refused, table, tmp_path):
    """Muennighoff et al. 2023: four epochs are worth nearly as much as new tokens, sixty-four are not."""
    truth = Repeat(E=1.87, A=521.0, B=1488.0, alpha=0.35, beta=0.35, R_D=15.4, R_N=5.3)
    with (tmp_path / "runs.csv").open("w") as file:
        file.write("params,tokens,unique,loss\n")
        for params, unique, epochs in itertools.product((1e7, 1e8, 1e9), (1e8, 1e9, 1e10), (1, 4, 16, 64)):
            file.write(f"{params},{unique * epochs},{unique},{truth.loss(params, unique * epochs, unique)}\n")
    law = tmp_path / "law.json"
    columns = ("--unique-tokens", "unique", "--law", "repeat", "--bootstrap", 3)
    assert call("fit", "--table", tmp_path / "runs.csv", *columns, "--json", law)[0] == 0
    shown = []
    for more in ((), ("--unique-tokens", "1e9")):
        code, out, _ = call("predict", law, "--params", "1e8", "--tokens", "6.4e10", *more)
        assert code == 0
        shown.append(float(out.splitlines()[1].split()[1]))
    expected = [float(truth.loss(1e8, 6.4e10)), float(truth.loss(1e8, 6.4e10, 1e9))]
    assert shown == pytest.approx(expected, rel=1e-3)
    assert expected[1] > expected[0] + 0.05
    code, out, _ = call("predict", law, "--flops", "1e20", "--unique-tokens", "1e9")
    assert code == 0
    values = dict(line.split()[:2] for line in out.splitlines()[1:5])
    assert float(values["N"]) == pytest.approx(truth.optimum(1e20, 1e9).params, rel=0.02)
    plain, columns = tmp_path / "plain.json", ("--params", "N", "--tokens", "D", "--loss", "final")
    assert call("fit", "--table", table, *columns, "--law", "kaplan", "--bootstrap", 0, "--json", plain)[0] == 0
    assert "the law 'kaplan' knows no repeated tokens: give --law repeat" in refused(
        "predict", plain, "--flops", "1e20", "--unique-tokens", "1e9"
    )
    assert "--unique-tokens 0.0: it must be positive" in refused(
        "predict", law, "--flops", "1e20", "--unique-tokens", 0
    )


def test_a_law_of_the_learning_rate(call, refused, tmp_path):
    """Sweeps whose best rate is that of Li et al. 2025; one run of each diverged, as its empty loss says."""
    with (tmp_path / "sweeps.csv").open("w") as file:
        file.write("N,D,rate,loss\n")
        for params, tokens in itertools.product((1e7, 1e8, 1e9), (1e9, 1e10)):
            best = STEP_LEARNING_RATE(N=params, D=tokens)
            for factor in (0.25, 0.5, 1, 2, 4):
                file.write(f"{params},{tokens},{best * factor},{3 + 0.1 * math.log(factor) ** 2}\n")
            file.write(f"{params},{tokens},{best * 16},\n")
    sweeps, law = ("--table", tmp_path / "sweeps.csv", "--setting", "rate", "--by"), tmp_path / "rates.json"
    code, out, _ = call("fit", *sweeps, "N", "D", "--json", law)
    assert code == 0
    assert out.startswith(f"{tmp_path}/sweeps.csv: 36 runs, 6 sweeps\n")
    assert "  rate = 1.79 N^-0.713 D^0.307\n" in out
    assert "  diverged-run: 6 of 36 runs have no finite loss" in out
    assert json.loads(law.read_text())["exponents"] == pytest.approx({"N": -0.713, "D": 0.307})
    assert "law.json is no law file" in refused("predict", law, "--flops", "1e20").replace("rates", "law")
    assert "0 columns 'C' (--by); its columns are: N, D, rate, loss" in refused("fit", *sweeps, "C")
    assert "takes a table of sweeps: --table FILE" in refused("fit", *sweeps[:4])
    (tmp_path / "sweeps.csv").write_text("N,D,rate,loss\n1e7,1e9,0.1,3\n")
    assert "needs 3 sweeps that bracket their best of values of rate; 0 here" in refused("fit", *sweeps, "N", "D")


def test_a_law_without_losses(call, tmp_path):
    runs = synthetic.isoflop(TRUTH, np.array([1e18, 1e19, 1e20]), 5, 4.0, noise=0.001)
    rows = zip(runs.params, runs.tokens, runs.loss, strict=True)
    (tmp_path / "runs.csv").write_text("params,tokens,loss\n" + "".join(f"{n},{d},{y}\n" for n, d, y in rows))
    law = tmp_path / "law.json"
    assert call("fit", "--table", tmp_path / "runs.csv", "--law", "isoflop", "--bootstrap", 5, "--json", law)[0] == 0
    assert call("predict", law, "--flops", "1e21")[0] == 0
    code, _, err = call("predict", law, "--params", "1e9", "--tokens", "1e10")
    assert code == 2
    assert "no model's loss: give --flops" in err


def test_it_starts_without_jax():
    code = (
        "import sys; from tools import scaling; import transformer.scaling.laws.law_file; print('jax' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False"
