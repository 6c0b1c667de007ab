"""The report: a page that needs nothing beside it, with the numbers of predict, and that says what is missing."""

import base64
import dataclasses
import json
import math
from html.parser import HTMLParser

import pytest

from tests.scaling.reports import studies
from transformer.errors import UserError
from transformer.scaling.laws import isoflop, law_file, predict
from transformer.scaling.reports import page as page_of
from transformer.scaling.reports import report_cost, results
from transformer.scaling.reports.report import PICTURES, report
from transformer.scaling.reports.wording import scientific
from transformer.scaling.studies import held_out, study

VOID = {"meta", "img", "br"}
PNG = b"\x89PNG\r\n\x1a\n"


class Page(HTMLParser):
    """Reads a page as a person does; fails where a tag is not closed, or anything is to be fetched."""

    def __init__(self, text):
        super().__init__()
        self.open, self.pictures, self.headings, self.tables, self.words = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        assert tag not in {"script", "link", "iframe", "object", "b"}
        assert "href" not in named
        assert named.get("src", "data:").startswith("data:")
        if tag == "img":
            assert named["alt"]
            self.pictures.append(base64.b64decode(named["src"].split("base64,")[1], validate=True))
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in {"td", "th"}:
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in {"td", "th"}:
            self.tables[-1][-1][-1] += data
        if self.open and self.open[-1] in {"h1", "h2", "h3"}:
            self.headings.append(data)
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    def table(self, *head):
        """The body of the table that begins with these columns."""
        [found] = [table for table in self.tables if tuple(table[0][: len(head)]) == head]
        return found[1:]


def page(folder):
    text = report(folder).read_text()
    assert text.startswith("<!DOCTYPE html>")
    assert "url(" not in text
    assert "@import" not in text
    return Page(text)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "study"
    studies.write(folder, studies.planned(sizes=5, repeats=2))
    studies.fit(folder, ("chinchilla", "isoflop", "kaplan"), 60)
    return folder


@pytest.fixture(scope="module")
def seen(whole):
    return page(whole)


def test_all_pictures_are_on_the_page_and_beside_it(whole, seen):
    assert len(seen.pictures) == len(PICTURES)
    files = {path.stem: path.read_bytes() for path in (whole / "report").iterdir()}
    assert set(files) == set(PICTURES)
    assert sorted(files.values()) == sorted(seen.pictures)
    assert all(picture.startswith(PNG) for picture in seen.pictures)


def test_held_out_runs_are_as_predict_says(whole, seen):
    law, _ = law_file.read(whole / "law.json")
    rows = seen.table("run", "N", "D", "decades on")
    held = study.table(study.read(whole), whole, held_out=True)
    assert [row[0] for row in rows] == list(held.names)
    for row, n, d, loss in zip(rows, held.params, held.tokens, held.loss, strict=True):
        said = predict.loss(law, n, d)
        assert row[3] == "+0.52"
        assert row[4] == f"{said.loss:.4f}"
        assert row[5] == "[{:.4f}, {:.4f}]".format(*said.of_law)
        assert row[6] == "[{:.4f}, {:.4f}]".format(*said.of_run)
        assert row[7] == f"{loss:.4f}"
        assert row[8] == f"{loss / said.loss - 1:+.2%}"
        assert row[9] == ("inside" if said.of_run[0] <= loss <= said.of_run[1] else "OUTSIDE")


def test_a_run_outside_its_interval_is_counted():
    one = held_out.HeldOut("far", 1e5, 1e6, 6e11, 3.0, (2.9, 3.1), (2.8, 3.2), 3.3)
    assert one.inside is False
    assert one.error == pytest.approx(0.1)
    assert one._replace(of_run=(math.nan, math.nan)).inside is None
    near = one._replace(measured=2.94)
    none = one._replace(of_run=(math.nan, math.nan))
    assert held_out.score([one, near, none]) == (pytest.approx((0.1 + 0.02 + 0.1) / 3), 1, 2)


def test_every_law_has_its_numbers(whole, seen):
    laws, source = law_file.read_all(whole / "law.json")
    shown = [table[1:] for table in seen.tables if table[0][0] == "number"]
    assert [[row[0] for row in table] for table in shown] == [list(law.fit.law.parameters()) for law in laws]
    assert shown[0][0][1] == f"{laws[0].fit.law.E:.5g}"
    assert shown[0][0][3] == "[{:.4g}, {:.4g}]".format(*laws[0].bootstrap.intervals()["E"])
    assert source.digest in seen.text
    for law in laws:
        assert all(warning.message in seen.text for warning in law.fit.warnings)
    assert "C, FLOPs, by 6N: 6 N a token" in seen.text
    assert "jax 0.10.2" in seen.text


def test_the_best_of_the_held_out_budget(whole, seen):
    rows = seen.table("C", "by", "N*")
    assert [row[1] for row in rows] == ["measured", "chinchilla", "isoflop", "kaplan"]
    law, _ = law_file.read(whole / "law.json", "isoflop")
    [profile] = isoflop.profiles(study.table(study.read(whole), whole, held_out=True))
    assert rows[0][6] == f"{profile.valley.depth:.4f}"
    assert rows[2][6] == f"{law.fit.law.optimal_loss(profile.flops):.4f}"


def test_a_branch_pays_for_its_own_updates(whole, seen):
    plan = study.read(whole)
    rows = {row[0]: row for row in seen.table("run", "state")}
    branch = next(cell for cell in plan.cells if cell.trunk)
    trunk = plan[branch.trunk]
    assert rows[branch.name][2] == f"{branch.branch} of {trunk.name}"
    assert rows[branch.name][7] == f"{branch.steps - branch.branch:,}"
    assert float(rows[branch.name][6]) == pytest.approx(branch.flops * branch.own_steps / branch.steps, rel=0.005)
    assert float(rows[trunk.name][6]) == pytest.approx(trunk.flops, rel=0.005)
    assert float(rows[trunk.name][8]) == pytest.approx(trunk.steps * 0.01 / 60, rel=0.01)  # 0.01 s an update
    total = sum(cell.flops * cell.own_steps / cell.steps for cell in plan.cells)
    assert f"In all {scientific(total)} FLOPs" in seen.text


def test_the_estimate_of_energy_has_its_inputs(whole):
    def section(*inputs):
        found = results.read_results(whole)
        return Page(page_of.document("", report_cost.used(found, None, report_cost.Inputs(*inputs))))

    text = section(300.0, 2, 100.0)
    hours = sum(cell.own_steps for cell in study.read(whole).cells) * 0.01 / 3600
    [row] = text.table("device", "power from")
    assert row == ["cpu", "--watts", f"{hours:.4g}", "300", f"{hours * 0.3:.3g}", f"{hours * 0.03:.3g}"]
    assert f"An estimate: {hours * 0.3:.3g} kWh" in text.text
    assert "4 processor cores of 7 W" in section(None, 4, 100.0).text


def test_what_codecarbon_measured_stands_first(whole, tmp_path):
    folder = tmp_path / "study"
    studies.write(folder, studies.planned(budgets=(3e11, 1e12), sizes=3, repeats=1))
    (folder / "emissions.csv").write_text("duration,emissions,energy_consumed\n10,0.5,1.25\n20,0.25,0.5\n")
    assert "Measured by codecarbon while the study ran, of the whole machine: 1.75 kWh, 0.75 kg" in page(folder).text


def test_a_study_without_a_law_says_how_to_get_one(tmp_path):
    folder = tmp_path / "study"
    studies.write(folder, studies.planned(budgets=(3e11, 1e12), sizes=3, repeats=1))
    (folder / "report").mkdir()
    (folder / "report" / "bootstrap.png").write_bytes(b"of an earlier report")
    found = page(folder)
    assert f"no law has been fitted: python tools/scaling.py fit {folder}" in found.text
    assert {path.stem for path in (folder / "report").iterdir()} == {"loss-curves", "isoflop"}
    assert "No law says a loss to compare with" in found.text


def test_a_study_that_has_not_begun(tmp_path):
    folder = tmp_path / "study"
    studies.write(folder, studies.planned(), run=False)
    found = page(folder)
    assert f"No run has begun: python tools/scaling.py run {folder}" in found.text
    assert "No update was timed" in found.text
    assert found.pictures == []


def test_runs_that_failed_are_named(tmp_path):
    folder = tmp_path / "study"
    plan = studies.write(folder, studies.planned(budgets=(3e11, 1e12), sizes=3, repeats=1), run=False)
    diverged, stopped, failed = [cell for cell in plan.cells if not cell.trunk][:3]
    studies.write_run(folder, diverged, ends=math.nan)
    studies.write_run(folder, stopped, until=0.5)
    (folder / "logs").mkdir()
    (folder / "logs" / f"{failed.name}.log").write_text("train: 3%\rerror: no such <b>file</b>\n")
    found = page(folder)
    assert f"not-finite : {diverged.name} ended with a loss that is not finite" in found.text
    made = max(results.read_results(folder)[stopped.name].steps)
    assert f"unfinished : {stopped.name} is at update {made} of {stopped.steps}: python tools/" in found.text
    assert f"failed : {failed.name}: no such <b>file</b>" in found.text  # as text: the page has no tag b
    assert f"{len(plan.cells) - 3} runs have not begun" in found.text


def test_a_law_of_other_runs_is_stale(tmp_path, whole):
    folder = tmp_path / "study"
    plan = studies.planned(sizes=5, repeats=2)
    studies.write(folder, plan)
    (folder / "law.json").write_bytes((whole / "law.json").read_bytes())
    assert not results.read_results(folder).stale
    (folder / "runs" / plan.cells[0].name / "metrics.jsonl").unlink()
    assert "stale-law : the laws were fitted to other runs than these" in page(folder).text


def test_names_from_files_are_text(tmp_path):
    folder = tmp_path / "<script>x"
    plan = studies.planned(budgets=(3e11, 1e12), sizes=3, repeats=1)
    studies.write(folder, dataclasses.replace(plan, preset='"><img src=http://example.com/x.png>'), run=False)
    found = page(folder)
    assert found.headings[0] == "Scaling study <script>x"
    assert '"><img src=http://example.com/x.png>' in found.text


def test_bad_input_is_one_line(tmp_path, whole):
    with pytest.raises(UserError, match="plan a study first"):
        report(tmp_path)
    with pytest.raises(UserError, match="--watts -1"):
        report(whole, watts=-1.0)
    folder = tmp_path / "study"
    studies.write(folder, studies.planned(), run=False)
    (folder / "law.json").write_text(json.dumps({"format": "another"}))
    with pytest.raises(UserError, match="law.json is no law file"):
        report(folder)
