"""Tables as people have them, fitted by the command: names, marks, units, settings; and none that is a traceback."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools import scaling as tool
from transformer.errors import UserError
from transformer.scaling.laws import bootstrap, parametric, reading, synthetic
from transformer.scaling.laws.coverage import TRUTH
from transformer.scaling.laws.reading import Columns

DATA = Path(__file__).parent / "data"
GRID = synthetic.study(TRUTH, np.geomspace(1e8, 6e9, 4)[:, None], np.geomspace(2e9, 2e11, 4), noise=0.003)


def _rows(*names: str, form: Callable[..., str] = str, mark: str = ",", **columns: Any) -> str:
    columns = {"N": GRID.params, "D": GRID.tokens, "C": GRID.flops, "loss": GRID.loss} | columns
    lines = [mark.join(map(form, row)) for row in zip(*(columns[name] for name in names), strict=True)]
    return "\n".join([mark.join(names), *lines]) + "\n"


@pytest.mark.parametrize("name", ["five", "flat", "rise"])
def test_losses_that_do_not_fall_are_refused_by_every_law(refused, name):
    said = refused("fit", DATA / f"{name}.csv", "--bootstrap", 5)
    for law in ("chinchilla", "isoflop", "envelope", "kaplan", "overtrain", "repeat"):
        assert f"; {law}: " in said
        assert refused("fit", DATA / f"{name}.csv", "--law", law, "--bootstrap", 5)


def test_losses_that_fall_with_tokens_alone_get_the_law_of_tokens(call):
    code, out, _ = call("fit", DATA / "donly.csv", "--bootstrap", 5)
    assert code == 0
    assert "\nkaplan-d: 7 runs" in out
    for law in ("chinchilla", "kaplan", "overtrain"):
        assert f"  {law}: the losses of these" in out[out.index("not fitted:") :]
    assert "nan" not in out


def test_runs_that_differ_in_unique_tokens_are_no_repeats(call, tmp_path):
    law = tmp_path / "law.json"
    for more in ((), ("--unique-tokens", "unique_tokens")):
        code, out, _ = call(
            "fit", DATA / "norepeats.csv", *more, "--law", "chinchilla", "--bootstrap", 0, "--json", law
        )
        assert code == 0
        assert "repeats: noise" not in out
        assert json.loads(law.read_text())["findings"]["lack_of_fit"] is None
    code, out, _ = call("fit", DATA / "norepeats.csv", "--where", "unique_tokens=1e9", "--law", "chinchilla")
    assert "noise" not in out


def test_runs_of_two_settings_are_no_repeats_and_warned_of(call, write):
    twice = np.concatenate([GRID.loss, 1.1 * GRID.loss])
    both: dict[str, Any] = {"N": np.tile(GRID.params, 2), "D": np.tile(GRID.tokens, 2), "loss": twice}
    path = write(_rows("N", "D", "loss", "lr", "setting", **both, lr=["x"] * 32, setting=["tuned"] * 16 + ["raw"] * 16))
    table = reading.read(path)
    assert [warned.code for warned in table.warned] == ["several-settings"]
    assert "'setting' holds 2 settings (tuned, raw): choose one, --where setting=tuned" in table.warned[0].message
    assert len(np.unique(table.cells())) == 32
    out = call("fit", path, "--bootstrap", 0, "--law", "chinchilla")[1]
    assert out.count("several-settings") == 1
    tuned = reading.read(path, where=["setting=tuned"])
    np.testing.assert_array_equal(tuned.loss, GRID.loss)
    assert tuned.warned == ()
    assert len(reading.read(path, where=["setting=tuned", "setting=raw", "lr=x"])) == 32
    for chosen, said in (
        ("setting=none", "its values are: raw, tuned"),
        ("setting=raw setting=none", "--where setting=none: no row"),
        ("settings=raw", "did you mean setting"),
        ("raw", "give COLUMN=VALUE"),
    ):
        with pytest.raises(UserError, match=said):
            reading.read(path, where=chosen.split())


def test_lowest_losses_that_rise_with_the_budget_are_refused(refused, write):
    """Parabolas and loss curves with sound lowest points, each higher than those of smaller budgets."""
    budgets, factors = np.geomspace(1e18, 1e21, 4), np.geomspace(0.25, 4, 5)
    flops = np.repeat(budgets, 5)
    params = 0.1 * flops**0.5 * np.tile(factors, 4)
    loss = 3 + 0.05 * np.log(flops / 1e18) + 0.1 * np.log(params / (0.1 * flops**0.5)) ** 2
    path = write(_rows("N", "C", "loss", N=params, C=flops, loss=loss))
    assert (
        "isoflop: the lowest loss does not fall as the budget grows: it is 3 at 1e+18 FLOPs and 3.345 at 1e"
        in refused("fit", path, "--law", "isoflop")
    )
    sizes, flops = np.repeat(np.geomspace(1e7, 1e9, 9), 9), np.tile(np.geomspace(1e18, 1e20, 9), 9)
    loss = 3 + 0.05 * np.log(flops / 1e18) + 0.1 * np.log(sizes / (0.01 * flops**0.5)) ** 2
    path = write(_rows("N", "C", "loss", N=sizes, C=flops, loss=loss))
    for law in ("isoflop", "envelope"):
        assert f"{law}: the lowest loss does not fall" in refused("fit", path, "--law", law, "--bootstrap", 2)


def test_text_that_says_how_runs_were_planned_is_no_setting(write):
    """As in OLMo's ladder: the column `xC` tells the ratio of tokens to size."""
    sizes, ratios = np.repeat(GRID.params[::4], 5), np.tile([10, 20, 40, 100, 200], 4)
    loss = TRUTH.loss(sizes, ratios * sizes)
    path = write(
        _rows("N", "D", "loss", "xC", N=sizes, D=ratios * sizes, loss=loss, xC=[f"{r / 20}xC" for r in ratios])
    )
    assert reading.read(path).warned == ()


def test_copies_of_a_row_are_said_and_are_no_repeats(call, write):
    text = _rows("N", "D", "loss")
    path = write(text + "".join(text.splitlines(keepends=True)[1:6]))
    code, out, _ = call("fit", path, "--law", "chinchilla", "--bootstrap", 0)
    assert code == 0
    assert "copied-rows: 5 rows repeat another in every cell, such as line 18: " in out
    assert "noise" not in out


@pytest.mark.parametrize("column", ["seed", "name", "accuracy"])
def test_seeds_names_and_measurements_are_no_settings(write, column):
    rng = np.random.default_rng(0)
    values = {"seed": np.repeat([0, 1], 16), "name": [f"run{k}" for k in range(32)], "accuracy": rng.random(32)}[column]
    loss = np.tile(GRID.loss, 2) * np.exp(0.01 * rng.standard_normal(32))
    both: dict[str, Any] = {"N": np.tile(GRID.params, 2), "D": np.tile(GRID.tokens, 2), "loss": loss}
    table = reading.read(write(_rows("N", "D", "loss", column, **both | {column: values})))
    assert table.warned == ()
    assert len(np.unique(table.cells())) == 16


def _german(value):
    return f"{value:.6f}".replace(".", ",")


@pytest.mark.parametrize(
    "text",
    [
        _rows("N", "D", "loss", mark=";"),
        _rows("N", "D", "loss", mark="\t"),
        _rows("N", "D", "loss", mark=" "),
        _rows("N", "D", "loss", mark=";", form=_german),
        "# runs of\n# two columns, or three\n" + _rows("N", "D", "loss"),
        "# " + _rows("N", "D", "loss"),
        _rows("N", "D", "loss", form=lambda value: f'"{value:,.6f}"'),
        _rows("N", "D", "loss").encode("utf-16"),
        b"\xef\xbb\xbf" + _rows("N", "D", "loss").encode(),
        _rows("N", "D", "loss").replace("N,D,loss", "Params,train-tokens,Val Loss"),
        _rows("C", "D", "loss"),
        _rows("N", "C", "loss"),
        _rows("N", "D", "C", "loss"),
    ],
)
def test_one_table_however_it_is_written(write, text):
    table = reading.read(write(text))
    np.testing.assert_allclose(table.params, GRID.params, rtol=1e-6)
    np.testing.assert_allclose(table.tokens, GRID.tokens, rtol=1e-6)
    np.testing.assert_allclose(table.flops, GRID.flops, rtol=1e-6)
    np.testing.assert_allclose(table.loss, GRID.loss, rtol=1e-6)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("x,y,z", "no column for two of N, the parameters (--params), D, the tokens (--tokens), C, the training"),
        ("x,y,z", "and no column for the loss (--loss); its columns are: x, y, z"),
        ("N,b,loss", "no column for one of D, the tokens (--tokens) and C, the training FLOPs (--flops)"),
        ("N,params,loss", "2 columns that could be N, the parameters (--params): N, params; name one"),
    ],
)
def test_what_is_missing_is_named_at_once(write, header, said):
    with pytest.raises(UserError) as refused:
        reading.read(write(header + "\n1e8,1e9,3\n"))
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("names", "factors", "said"),
    [
        (("N", "C", "loss"), {"N": 1e-6}, "tokens per parameter: N is in another unit"),
        (("N", "D", "C", "loss"), {"N": 1e-6}, "C is 1e+06 times 6 N D: N or D look like millions"),
        (("N", "D", "C", "loss"), {"D": 1e-9}, "C is 1e+09 times 6 N D: N or D look like billions"),
        (("N", "D", "C", "loss"), {"C": 1e-12}, "C is 1e-12 times 6 N D"),
    ],
)
def test_units_that_contradict_each_other_are_refused(write, names, factors, said):
    columns = {"N": GRID.params, "D": GRID.tokens, "C": GRID.flops}
    scaled = {name: columns[name] * factor for name, factor in factors.items()}
    with pytest.raises(UserError) as refused:
        reading.read(write(_rows(*names, **scaled)))
    assert said in str(refused.value)


def test_units_that_look_odd_are_warned_of(write):
    millions = write(_rows("N", "D", "loss", N=GRID.params / 1e6, D=GRID.tokens / 1e6))
    assert [warned.code for warned in reading.read(millions).warned] == ["units"]
    billions = write(_rows("N", "D", "loss", D=GRID.tokens / 1e9))
    assert "tokens per parameter: is D, or C, in another unit?" in reading.read(billions).warned[0].message
    pf_days = write(_rows("N", "D", "C", "loss", C=GRID.flops / 8.64e19))
    assert reading.read(pf_days, Columns(flops="6ND")).warned == ()


def test_a_prediction_as_json_is_what_is_printed(call, refused, write, tmp_path):
    law = tmp_path / "law.json"
    code, out, _ = call("fit", write(_rows("N", "D", "loss")), "--law", "chinchilla", "--bootstrap", 50, "--json", law)
    assert code == 0
    record = json.loads(law.read_text())
    assert f"R2 {record['goodness']['r_squared']:.4f}, rms error {record['goodness']['rms_error']:.2%}" in out
    off = np.array(record["residuals"])
    assert record["goodness"]["rms_error"] == pytest.approx(np.sqrt(np.mean(off**2)), rel=1e-6)
    assert record["goodness"]["r_squared"] == pytest.approx(1 - np.mean(off**2) / np.var(np.log(GRID.loss)), rel=1e-6)
    code, out, _ = call("predict", law, "--flops", 1e23, "--json")
    assert code == 0
    said = json.loads(out)
    assert (said["law"], said["flops"]) == ("chinchilla", 1e23)
    assert said["intervals"]["params"][0] < said["params"] < said["intervals"]["params"][1]
    assert [warned["code"] for warned in said["warnings"]][:1] == ["extrapolation"]
    code, out, _ = call("predict", law, "--params", 1e9, "--tokens", 2e10, "--json")
    said = json.loads(out)
    assert said["interval_of_run"][0] < said["interval_of_law"][0] < said["loss"] < said["interval_of_law"][1]


def test_a_standard_error_of_stray_refits_is_not_known():
    laws = [parametric.Chinchilla(1.0, 400.0, value, 0.3, 0.3) for value in (*np.linspace(300, 500, 199), 6e14)]
    errors = bootstrap.Bootstrap(tuple(laws)).standard_errors()
    assert np.isnan(errors["B"])
    assert errors["E"] != errors["E"] or errors["E"] == 0


_NUMBERS = st.sampled_from([1e7, 2e7, 4e7, 1e8, 1e9, 1e10, 1e12, 1.0, 1e-3, 1e30, 1e59, 1e300])
_CELLS = _NUMBERS | st.sampled_from(["inf", "nan", "0", "-1", "", "x"])
_RUNS = st.tuples(*[st.sampled_from([1e7, 2e7, 4e7, 8e7, 1e9])] * 2, st.sampled_from([3, 3.1, 3.2, 2.5, 1e-20, 1e20]))


@settings(max_examples=10)
@given(
    rows=st.lists(_RUNS, min_size=2, max_size=10) | st.lists(st.tuples(*[_CELLS] * 3), min_size=1, max_size=4),
)
def test_no_table_is_a_traceback_or_a_warning_of_numpy(rows, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "random.csv"
    path.write_text("N,D,loss\n" + "".join(",".join(map(str, row)) + "\n" for row in rows))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            tool.main(["fit", str(path), "--bootstrap", "2"])
        except UserError as error:
            assert "\n" not in str(error)  # noqa: PT017


def test_a_file_given_first_is_a_table(refused, tmp_path):
    assert "no such file or folder" in refused("fit", tmp_path / "none.csv")
    assert "is a folder" in refused("fit", "--table", tmp_path)
    assert "--where: a study has no use for that" in refused("fit", tmp_path, "--where", "a=b")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "--pairs FILE; none given"),
        (("FILE", "--pairs", "FILE"), "--pairs FILE; 2 given"),
        (("FILE", "--pair-columns", "C", "N", "sd", "--log-deviation"), "--pair-columns and --log-deviation: a table"),
        (("--pairs", "FILE", "--fix", "a=0.5"), "--fix: a fit of optimal pairs has no use for that"),
        (("FILE", "--setting", "lr", "--by", "N", "--law", "kaplan"), "--law: a law of a setting has no use for that"),
        (("FILE", "--law", "Kaplam"), "did you mean kaplan?"),
        (("FILE", "--json", "."), "--json . is a folder"),
    ],
)
def test_a_flag_that_says_nothing_of_what_is_fitted_is_refused(refused, write, flags, said):
    path = write(_rows("N", "D", "loss"))
    assert said in refused("fit", *(path if flag == "FILE" else flag for flag in flags))
