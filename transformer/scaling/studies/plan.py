"""Plan: the runs that a law for a preset is fitted to, from budgets of compute.

Every budget gets models of several sizes around the one that is expected to be best, each trained until the budget is
spent (IsoFLOP; Hoffmann et al. 2022, section 3.2). The sizes of all budgets lie on one ladder, so that few programs are
compiled, and so that a long run serves shorter ones: with a schedule that is constant up to its cooldown, a run of
fewer updates is the long one, cooled down from a checkpoint on its way (Hägele et al. 2024).
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from transformer import checks
from transformer.models import Architecture, conventions
from transformer.models.resizing import Shaping, head_width
from transformer.mup.parametrization import MupConfig
from transformer.scaling.laws import power_law
from transformer.scaling.studies.sizes import TOKENS_PER_PARAM, Sized, around, ladder
from transformer.scaling.studies.study import Cell, Study
from transformer.training.experiment import Experiment

_WARMUP_SHARE = 10
"""The shortest run of a size warms up over no more than one in so many of its updates."""
_CURVE_POINTS = 100
"""Number of rows in a run's metrics."""


@dataclasses.dataclass(frozen=True)
class Request:
    """What a study should measure."""

    budgets: tuple[float, ...]
    """Training FLOPs, by the convention, such as 1e12 3e12 1e13."""
    sizes: int = 6
    """Models at each budget."""
    span: float = 4.0
    """The largest model over the one that is expected to be best, as that one over the smallest."""
    tokens_per_param: float = TOKENS_PER_PARAM
    """Tokens per parameter that the best model is expected to read (Hoffmann et al. 2022: 20)."""
    hold_out: int = 1
    """Number of the largest budgets that are left out of the fit, to be predicted."""
    repeats: int = 1
    """Seeds of each budget's middle size: what tells noise from misfit."""
    rate: Literal["fixed", "mup", "step", "deepseek"] = "fixed"
    """Learning rate of a size: the preset's; the preset's, carried over by muP; or scaled from the preset's by the
    power laws of Li et al. 2025 (in N and D) or of Bi et al. 2024 (in C)."""
    convention: str = "6N"
    """How FLOPs are counted: python tools/scaling.py flops names the ways."""
    size: str = "total"
    """What N counts: total, or non-embedding."""
    trunks: bool = True
    """With the wsd schedule: cool shorter runs down from the longest of their size."""

    def __post_init__(self) -> None:
        budgets, number = " ".join(map(str, self.budgets)), len(self.budgets)
        differ = number > 0 and min(self.budgets) > 0 and len(set(self.budgets)) == number
        checks.require(self, differ, f"`budgets` {budgets}: give different FLOPs, such as 3e11 1e12 3e12")
        checks.require(self, self.sizes >= 3, f"`sizes` {self.sizes}: a parabola needs three sizes or more")
        fitted = f"`hold_out` {self.hold_out}: of {number} budgets, at least one is to be fitted"
        checks.require(self, 0 <= self.hold_out < number, fitted)
        checks.above(self, 1, "span")
        checks.at_least(self, 1, "repeats")
        checks.above(self, 0, "tokens_per_param")


class Planned(NamedTuple):
    """A study, and the experiment of each of its cells."""

    study: Study
    experiments: dict[str, Experiment]
    notes: list[str]
    """Notes for the planner, a line each."""


def plan(base: Experiment, request: Request, shaping: Shaping = Shaping()) -> Planned:
    """Returns the runs from which a law for `base` is fitted; its model gives the proportions.

    Raises:
      UserError: a budget too small or too large for any shape, or an experiment that does not fit one.
    """
    budgets = sorted(request.budgets)
    length, targets = base.lengths
    notes: list[str] = []
    chosen = _ladder(base.model, request, budgets, length, targets, shaping, notes)
    held = set(budgets[len(budgets) - request.hold_out :])
    batch = base.train.batch_size * (length + targets)
    drafts: list[tuple[Cell, Architecture]] = []
    for budget in budgets:
        models = chosen[budget]
        for place, sized in enumerate(models):
            each = conventions.flops_per_token(request.convention, sized.architecture, length, targets)
            steps = max(round(budget / each / batch), 1)
            seeds = range(request.repeats if place == len(models) // 2 else 1)
            for seed in seeds:
                name = f"C{budget:.4g}-N{_short(sized.params)}".replace("e+", "e") + (f"-seed{seed}" if seed else "")
                cell = Cell(
                    name, budget, sized.params, steps * batch, steps * batch * each, steps, base.train.seed + seed,
                    held_out=budget in held,
                )  # fmt: skip
                drafts.append((cell, sized.architecture))
            if steps < 100:
                notes.append(f"{name}: {steps} updates are few: a smaller batch, a larger budget or a smaller span")
    if request.trunks and base.optimizer.schedule == "wsd":
        drafts = _branched(drafts, base.optimizer.cooldown_fraction)
    cells = [cell for cell, _ in drafts]
    experiments = {cell.name: _experiment(base, request, cell, model, cells) for cell, model in drafts}
    return Planned(Study(base.name, request.convention, request.size, tuple(_ordered(cells))), experiments, notes)


def _ladder(
    base: Architecture,
    request: Request,
    budgets: Sequence[float],
    length: int,
    targets: int,
    shaping: Shaping,
    notes: list[str],
) -> dict[float, list[Sized]]:
    """Returns the sizes of each budget, all from one ladder."""
    centres = [
        around(
            base,
            budget,
            1,
            length=length,
            target_length=targets,
            convention=request.convention,
            size=request.size,
            tokens_per_param=request.tokens_per_param,
            shaping=shaping,
        )[0].params
        for budget in budgets
    ]
    rung = 2 * math.log(request.span) / (request.sizes - 1)
    first = [
        round(math.log(centre / centres[0]) / rung - (request.sizes - 1) / 2 + (request.sizes - 1) % 2 / 2)
        for centre in centres
    ]
    offset = (request.sizes - 1) % 2 / 2  # an even number of sizes lies around the best, not on it
    places = sorted({place + step for place in first for step in range(request.sizes)})
    wanted = [centres[0] * math.exp((place - offset) * rung) for place in places]
    rungs = dict(zip(places, ladder(base, wanted, request.size, shaping), strict=True))
    notes += [f"N {sized.params:,}: {sized.note}" for sized in rungs.values() if sized.note]
    return {
        budget: [rungs[place + step] for step in range(request.sizes)]
        for budget, place in zip(budgets, first, strict=True)
    }


def _branched(drafts: list[tuple[Cell, Architecture]], cooldown_fraction: float) -> list[tuple[Cell, Architecture]]:
    """Makes every run but the longest of a model and a seed begin at a checkpoint of that one."""
    longest: dict[tuple[int, int], Cell] = {}
    for cell, _ in drafts:
        key = cell.params, cell.seed
        if key not in longest or cell.steps > longest[key].steps:
            longest[key] = cell
    branched = []
    for cell, model in drafts:
        trunk = longest[cell.params, cell.seed]
        # The updates up to here have the trunk's rates, and at least one is left to make.
        branch = cell.steps - max(round(cooldown_fraction * cell.steps), 1)
        if trunk is not cell and branch >= 1 and trunk.steps > cell.steps:
            cell = dataclasses.replace(cell, trunk=trunk.name, branch=branch)
        branched.append((cell, model))
    return branched


def _experiment(
    base: Experiment, request: Request, cell: Cell, model: Architecture, cells: Sequence[Cell]
) -> Experiment:
    """Returns the experiment of a cell, with the checkpoints that its branches need."""
    alike = [other for other in cells if other.params == cell.params]
    shortest = min(other.steps for other in alike)
    branches = sorted({other.branch for other in cells if other.trunk == cell.name and other.branch is not None})
    optimizer = dataclasses.replace(
        base.optimizer,
        # One warmup a size, or the rates of a branch would not be its trunk's.
        warmup_steps=max(min(base.optimizer.warmup_steps, shortest // _WARMUP_SHARE), 1),
        learning_rate=base.optimizer.learning_rate * _rate_factor(base, request, cell),
    )
    train = dataclasses.replace(
        base.train,
        steps=cell.steps,
        seed=cell.seed,
        eval_every=cell.steps,
        log_every=max(cell.steps // _CURVE_POINTS, 1),
    )
    checkpoint = dataclasses.replace(
        base.checkpoint, every=cell.steps, every_minutes=10.0, keep=1, keep_best=0, at=tuple(branches)
    )
    return dataclasses.replace(
        base,
        model=model,
        optimizer=optimizer,
        train=train,
        checkpoint=checkpoint,
        mup=_base_of(base.model) if request.rate == "mup" else base.mup,
    )


def _rate_factor(base: Experiment, request: Request, cell: Cell) -> float:
    """Returns a rule's factor on the preset's learning rate: 1 at the preset's size and its best number of tokens."""
    own = conventions.num_params(base.model, request.size)
    here = {"N": float(cell.params), "D": float(cell.tokens)}
    there = {"N": float(own), "D": request.tokens_per_param * own}
    match request.rate:
        case "step":
            law = power_law.STEP_LEARNING_RATE
            return law(**here) / law(**there)
        case "deepseek":
            law = power_law.DEEPSEEK_LEARNING_RATE
            return law(C=6 * here["N"] * here["D"]) / law(C=6 * there["N"] * there["D"])
    return 1.0


def _base_of(model: Architecture) -> MupConfig:
    return MupConfig(model.width, head_width(model), model.depth if model.pre_norm else None)


def _ordered(cells: Sequence[Cell]) -> list[Cell]:
    """Returns the cells by budget, a trunk before the first of its branches."""
    first: dict[str, float] = {cell.name: cell.budget for cell in cells}
    for cell in cells:
        if cell.trunk:
            first[cell.trunk] = min(first[cell.trunk], cell.budget)
    return sorted(cells, key=lambda cell: (first[cell.name], cell.trunk is not None, cell.flops))


def _short(params: int) -> str:
    """Returns 84210 as 84k."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if params >= size:
            return f"{params / size:.3g}{letter}"
    return str(params)
