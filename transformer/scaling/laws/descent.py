"""Fitting a form from a grid of starts, and checking that the fit is at a minimum: what the parametric laws share.

Every start of a grid is followed to its minimum by newton.py, all starts together. Then a second solver (L-BFGS-B),
from the lowest minimum and from the start that ended worst, must not find better: where an optimizer stops early, it
says "success" all the same (Besiroglu et al. 2024, "Chinchilla Scaling: A replication attempt").
"""

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize

from transformer.errors import UserError
from transformer.scaling.laws import newton
from transformer.scaling.laws.how import How
from transformer.scaling.laws.law import Fit, Law, Warned
from transformer.scaling.laws.newton import Solved
from transformer.scaling.laws.penalty import Penalty
from transformer.scaling.laws.table import RunTable

SETTLED = 1e-5
"""Share of its objective that a converged fit may still lose to another solver: as much as five digits show."""
_TOGETHER = 128
"""Refits that are solved at once: their arrays stay in a processor's cache."""
_ENOUGH = 1e-7
"""Share of its objective that a refit may still lose: far less than one run more or less changes it by."""
_TRIAL, _FOLLOWED = 16, 32
"""Newton steps that every start makes; and how many starts, those that got lowest, are followed to the end."""
Tick = Callable[[int], Any]
"""Called with the number of refits just done: a progress bar's update."""


class Headline(NamedTuple):
    """A number that a law is read for."""

    value: float
    matters: float
    """The least difference that two minima's readers would care about."""


class Convergence(NamedTuple):
    """How near a minimum a fit is."""

    objective: float
    gradient: float
    """Length of the gradient, each parameter in the unit that the objective's curvature gives it; bounds count."""
    better: float
    """The share of the objective that another solver, or another start, takes off."""

    @property
    def converged(self) -> bool:
        return self.better < SETTLED


class Minimum(NamedTuple):
    """A minimum of the objective."""

    objective: float
    law: Law
    starts: int
    """Starts of the grid that ended there."""


@dataclasses.dataclass(frozen=True)
class ParametricFit(Fit):
    """A fit, with what is known of its minimum."""

    convergence: Convergence = dataclasses.field(kw_only=True)
    minima: tuple[Minimum, ...] = dataclasses.field(kw_only=True)
    """The lowest first, which is the fit; then runners-up."""
    condition: float = dataclasses.field(kw_only=True)
    """Condition number of log L_hat's derivatives, columns scaled to length one; from 30 on, trouble (Belsley et al.
    1980)."""


@dataclasses.dataclass(frozen=True)
class Problem(abc.ABC):
    """A form over a table's runs: `newton.Form`, with conversions between its parameters [P] and a law."""

    y: np.ndarray
    """[R] log loss, less any constant that the form subtracts."""
    how: How
    """The user's choices; parameters fixed there have equal bounds here."""
    lower: np.ndarray
    """[P] bounds of theta; equal ones hold a parameter fixed."""
    upper: np.ndarray
    """[P]."""

    @abc.abstractmethod
    def errors(self, theta: np.ndarray) -> np.ndarray:
        """Returns log L_hat - log L [K, R] at [K, P]."""

    @abc.abstractmethod
    def slopes(self, theta: np.ndarray) -> np.ndarray:
        """Returns the derivatives of log L_hat [K, R, P]."""

    @abc.abstractmethod
    def bends(self, theta: np.ndarray, pull: np.ndarray, slopes: np.ndarray) -> np.ndarray:
        """Returns the second derivatives of log L_hat, weighted by `pull` [K, R] and summed over runs: [K, P, P]."""

    @abc.abstractmethod
    def law(self, theta: np.ndarray) -> Law:
        """Returns the law with parameters [P]."""

    @abc.abstractmethod
    def theta(self, law: Any) -> np.ndarray:
        """Returns a law's parameters [P]."""

    @abc.abstractmethod
    def starts(self) -> np.ndarray:
        """Returns the starting points of fits, [K, P]."""

    @abc.abstractmethod
    def shown(self, theta: np.ndarray) -> list[tuple[str, str]]:
        """Returns each parameter's name and value as messages show them."""

    @abc.abstractmethod
    def headlines(self, law: Any) -> Mapping[str, Headline]:
        """Returns the numbers that tell two minima apart."""

    @property
    def objective(self) -> Penalty:
        """What is minimised."""
        return self.how.objective

    @property
    def free(self) -> np.ndarray:
        """[P] bool: which parameters are fitted."""
        return self.lower < self.upper

    def edges(self, theta: np.ndarray) -> np.ndarray:
        """Returns [P] bool: which fitted parameters are at a bound."""
        near = 1e-3 * np.minimum(np.maximum(np.abs(theta), 1e-9), self.upper - self.lower)
        return self.free & ((theta - self.lower <= near) | (self.upper - theta <= near))

    def solve(
        self,
        theta: np.ndarray,
        weights: np.ndarray | None = None,
        iterations: int = 200,
        tolerance: float = newton.TOLERANCE,
    ) -> Solved:
        """Returns the minima next to the starts [K, P]; `weights` [K, R] count the runs, all 1 by default."""
        weights = np.ones((1, len(self.y))) if weights is None else weights
        return newton.solve(self, theta, weights, iterations, tolerance)

    def descend(self, start: np.ndarray) -> tuple[np.ndarray, float]:
        """Returns where L-BFGS-B gets from a start [P], and the objective there: another solver than `solve`."""
        ones = np.ones((1, len(self.y)))
        # A fit below this is perfect: the rest is rounding.
        first = max(float(newton.objective(self, start[None], ones)[0]), 1e-14 * len(self.y))

        def scaled(theta: np.ndarray) -> tuple[float, np.ndarray]:
            error, slopes = self.errors(theta[None]), self.slopes(theta[None])
            value = float(self.objective.value(error).sum())
            return value / first, self.objective.pull(error)[0] @ slopes[0] / first

        options = {"maxiter": 2000, "maxfun": 4000, "ftol": 1e-14, "gtol": 1e-8, "maxcor": 20}
        bounds = list(zip(self.lower, self.upper, strict=True))
        ended = minimize(scaled, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
        return ended.x, float(ended.fun) * first


def fit(problem: Problem) -> ParametricFit:
    """Fits a form: returns the lowest minimum that its starts lead to, with warnings about it."""
    starts = problem.starts()
    if len(starts) > 2 * _FOLLOWED:
        tried = problem.solve(starts, iterations=_TRIAL)
        starts = tried.theta[np.argsort(tried.objective, kind="stable")[:_FOLLOWED]]
    solved = problem.solve(starts)
    minima = _distinct(problem, solved)
    best = solved.theta[int(np.argmin(solved.objective))]
    convergence = check_convergence(problem, best, others=[starts[int(np.argmax(solved.objective))]])
    condition = _condition(problem, best)
    warned = [*_not_converged(convergence), *_of_parameters(problem, best), *_runner_up(problem, minima)]
    if condition > 100:
        line = (
            f"condition number {condition:.3g}: some parameters look alike to these runs; vary N and D more, and apart"
        )
        warned.append(Warned("ill-conditioned", line))
    return ParametricFit(
        problem.how.hold(minima[0].law),
        minima[0].objective,
        len(problem.y),
        tuple(warned),
        minimised=problem.objective.words,
        convergence=convergence,
        minima=minima,
        condition=condition,
    )


def refit(problem: Problem, laws: list[Law], weights: np.ndarray, tick: Tick | None = None) -> list[Law]:
    """Returns the fits in which run r counts weights[k, r] times, for every k, many solved together.

    Each starts from every one of `laws`, and from the fit of another k; the lowest minimum is taken.

    Args:
      problem: the form over all runs.
      laws: the minima of the whole table, the fit first.
      weights: [K, R], such as a bootstrap's counts, or ones with one zero.
      tick: called with the number of fits just done.
    """
    laws_k: list[Law] = []
    for first in range(0, len(weights), _TOGETHER):
        block = weights[first : first + _TOGETHER]
        theta, objective = np.empty((len(block), len(problem.lower))), np.full(len(block), np.inf)
        for start in [np.tile(problem.theta(law), (len(block), 1)) for law in laws] + [None]:
            solved = problem.solve(np.roll(theta, 1, axis=0) if start is None else start, block, 100, _ENOUGH)
            lower = solved.objective < objective
            theta = np.where(lower[:, None], solved.theta, theta)
            objective = np.where(lower, solved.objective, objective)
        laws_k += [problem.how.hold(problem.law(each)) for each in theta]
        if tick is not None:
            tick(len(block))
    return laws_k


def require_cells(table: RunTable, law: str, numbers: int, *more: np.ndarray) -> None:
    """Raises UserError unless a table has more cells (of one size, tokens and `more` [R]) than free numbers."""
    cells = len(np.unique(np.stack([table.params, table.tokens, *more]), axis=1).T)
    if cells <= numbers:
        raise UserError(
            f"{law} has {numbers} numbers to fit: it needs runs of {numbers + 1} sizes and tokens; {cells} here"
        )


def require_ratios(table: RunTable, law: str, alike: str, least: float = 1e-3) -> None:
    """Raises UserError, which says what is `alike`, unless the log ratios of tokens to size span at least `least`."""
    ratio = np.log(table.tokens / table.params)
    if np.ptp(ratio) < least:
        raise UserError(
            f"{law}: every run reads {np.exp(ratio.mean()):.3g} tokens per parameter, so that {alike}; "
            "add runs that read more or fewer"
        )


def check_convergence(problem: Problem, theta: np.ndarray, others: list[np.ndarray]) -> Convergence:
    """Returns how near a minimum `theta` [P] is: a second solver starts from it and from `others`."""
    now = newton.derivatives(problem, theta[None], np.ones((1, len(problem.y))))
    objective, gradient = float(now.objective[0]), now.gradient[0]
    stuck = newton.outward(problem, theta, gradient)
    steepness = float(np.linalg.norm(np.where(stuck, 0.0, gradient / now.scale[0])))
    best = min(problem.descend(np.clip(start, problem.lower, problem.upper))[1] for start in (theta, *others))
    # Rounding of a perfect fit is no progress.
    better = max(0.0, objective - best - 1e-18 * len(problem.y)) / max(objective, 1e-300)
    return Convergence(objective, steepness, better)


def _distinct(problem: Problem, solved: Solved) -> tuple[Minimum, ...]:
    """Returns the minima that starts converged to, the lowest first; the lowest point of all counts in any case."""
    order = np.argsort(solved.objective, kind="stable")
    ended = [k for k in order if solved.converged[k] or k == order[0]]
    minima: list[Minimum] = []
    for k in ended:
        value, law = float(solved.objective[k]), problem.law(solved.theta[k])
        same = [
            i
            for i, minimum in enumerate(minima)
            if value <= minimum.objective * (1 + 1e-6) + 1e-15 * len(problem.y)
            and not _differ(problem, law, minimum.law, 0.1)
        ]
        if same:
            minima[same[0]] = minima[same[0]]._replace(starts=minima[same[0]].starts + 1)
        else:
            minima.append(Minimum(value, law, 1))
    return tuple(minima)


def _differ(problem: Problem, law: Law, other: Law, share: float = 1.0) -> list[str]:
    """Returns the headlines in which two laws differ by more than that share of what matters."""
    theirs = problem.headlines(other)
    return [
        name
        for name, (value, matters) in problem.headlines(law).items()
        if abs(value - theirs[name].value) > share * matters
    ]


def _condition(problem: Problem, theta: np.ndarray) -> float:
    columns = problem.slopes(theta[None])[0][:, problem.free]
    lengths = np.linalg.norm(columns, axis=0)
    return float(np.linalg.cond(columns / lengths)) if lengths.all() else float("inf")


def _not_converged(convergence: Convergence) -> list[Warned]:
    if convergence.converged:
        return []
    share = f"{convergence.better:.1%}"
    line = f"another solver or start lowers the objective by {share}: these numbers are not at the minimum"
    return [Warned("not-converged", line)]


def _of_parameters(problem: Problem, theta: np.ndarray) -> list[Warned]:
    """Returns warnings about single parameters."""
    warned = []
    edges, shown = problem.edges(theta), problem.shown(theta)
    felt = np.abs(problem.slopes(theta[None])[0]).max(axis=0)
    for k, (name, value) in enumerate(shown):
        if edges[k]:
            line = f"{name} is {value}, at its bound: these runs do not say it; vary sizes, tokens and budgets more"
            warned.append(Warned("parameter-at-bound", line))
        elif problem.free[k] and felt[k] < 1e-4:
            line = f"{name} moves the loss of none of these runs: they do not say it; add runs where it matters"
            warned.append(Warned("unidentified", line))
    return warned


def _runner_up(problem: Problem, minima: tuple[Minimum, ...]) -> list[Warned]:
    best = minima[0]
    ours = problem.headlines(best.law)
    for other in minima[1:]:
        differ = _differ(problem, other.law, best.law)
        if other.objective < best.objective * 1.02 and differ:
            theirs = problem.headlines(other.law)
            told = [f"{name} {theirs[name].value:.3f} in place of {ours[name].value:.3f}" for name in differ]
            above = other.objective / best.objective - 1
            line = f"another minimum is {above:.2%} above: {', '.join(told)}; runs that tell them apart are missing"
            return [Warned("runner-up", line)]
    return []
