"""Plans: cells around the expected best, on one ladder, that cost what was asked for; and what a study would tell."""

import dataclasses

import pytest

import configs
from transformer.errors import UserError
from transformer.models import conventions
from transformer.scaling.studies import simulate
from transformer.scaling.studies.plan import Request, plan
from transformer.scaling.studies.study import Study, read, write
from transformer.sweeps.cells import experiment_path

BUDGETS = (1e13, 1e14, 1e15)


@pytest.fixture(scope="module")
def base():
    return configs.get("gpt-scaling")


@pytest.fixture(scope="module")
def planned(base):
    return plan(base, Request(BUDGETS, sizes=5, repeats=2))


def test_every_cell_spends_its_budget(planned, base):
    for cell in planned.study.cells:
        experiment = planned.experiments[cell.name]
        each = conventions.flops_per_token("6N", experiment.model, base.train.seq_len)
        assert cell.flops == pytest.approx(cell.budget, rel=0.01)
        assert cell.flops == pytest.approx(each * cell.tokens, rel=1e-12)
        assert cell.tokens == cell.steps * base.train.batch_size * base.train.seq_len
        assert experiment.train.steps == cell.steps
        assert cell.params == conventions.num_params(experiment.model)


def test_sizes_surround_the_expected_best_and_are_shared(planned):
    models = {}
    for budget in BUDGETS:
        cells = [cell for cell in planned.study.cells if cell.budget == budget]
        assert len(cells) == 6  # five sizes, one of them twice
        params = sorted({cell.params for cell in cells})
        best = (budget / 120) ** 0.5  # D = 20 N, C = 6 N D
        assert params[0] < best < params[-1]
        assert params[-1] / params[0] == pytest.approx(16, rel=0.35)
        models[budget] = set(params)
    assert len(set.union(*models.values())) <= 10  # of fifteen


def test_a_trunk_comes_before_its_branches_and_saves_for_them(planned):
    names = [cell.name for cell in planned.study.cells]
    branches = [cell for cell in planned.study.cells if cell.trunk]
    assert branches
    for cell in branches:
        trunk = planned.study[cell.trunk]
        assert names.index(trunk.name) < names.index(cell.name)
        assert (trunk.params, trunk.seed) == (cell.params, cell.seed)
        mine, its = (planned.experiments[each.name] for each in (cell, trunk))
        assert cell.branch in its.checkpoint.at
        assert cell.branch == cell.steps - round(0.2 * cell.steps)
        assert mine.optimizer == its.optimizer
        rest = dataclasses.replace(its, train=mine.train, checkpoint=mine.checkpoint)
        assert dataclasses.replace(rest, train=dataclasses.replace(mine.train)) == mine


def test_the_largest_budget_is_held_out(planned):
    assert {cell.budget for cell in planned.study.cells if cell.held_out} == {1e15}


def test_without_trunks_each_run_is_its_own(base):
    study = plan(base, Request(BUDGETS, sizes=3, trunks=False)).study
    assert not [cell for cell in study.cells if cell.trunk]


def test_rules_of_the_learning_rate(base):
    for rate, grows in (("step", False), ("deepseek", False), ("fixed", None)):
        found = plan(base, Request(BUDGETS, sizes=3, rate=rate, trunks=False))
        rates = [
            found.experiments[cell.name].optimizer.learning_rate
            for cell in sorted(found.study.cells, key=lambda cell: (cell.params, cell.flops))
        ]
        assert (len(set(rates)) == 1) == (grows is None)
    found = plan(base, Request(BUDGETS, sizes=3, rate="mup"))
    assert {experiment.mup.base_width for experiment in found.experiments.values()} == {base.model.width}


def test_a_study_is_read_as_it_was_written(planned, tmp_path):
    write(planned.study, tmp_path, planned.experiments)
    assert read(tmp_path) == planned.study
    assert all(experiment_path(tmp_path, cell).exists() for cell in planned.study.cells)
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(UserError, match="study.json: not a study"):
        read(tmp_path)
    with pytest.raises(UserError, match="plan a study first"):
        read(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"budgets": ()}, "budgets .*different FLOPs"),
        ({"budgets": (1e14, 1e14)}, "budgets .*different FLOPs"),
        ({"budgets": BUDGETS, "sizes": 2}, "sizes 2"),
        ({"budgets": BUDGETS, "hold_out": 3}, "hold_out 3"),
        ({"budgets": BUDGETS, "span": 1.0}, "span is 1.0"),
    ],
)
def test_what_cannot_be_planned_is_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        Request(**wrong)


def test_a_tiny_budget_is_refused(base):
    with pytest.raises(UserError, match="a budget of 1e\\+06 FLOPs"):
        plan(base, Request((1e6,), hold_out=0))


def test_more_runs_and_less_noise_tell_more(planned):
    """By simulation: a tenth of the noise leaves about a tenth of the scatter."""
    loud = simulate.expected(planned.study.cells, count=6, noise=0.003)
    quiet = simulate.expected(planned.study.cells, count=6, noise=0.0003)
    assert loud.failed == quiet.failed == 0
    assert 5 < loud.loss / quiet.loss < 20
    few = Study("x", "6N", "total", planned.study.cells[:1])
    with pytest.raises(UserError):
        simulate.expected(few.cells, count=2)
