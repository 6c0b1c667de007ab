"""Many fits of one form at once: damped Newton on the summed penalty of log L_hat - log L, with exact derivatives.

A bootstrap is a thousand fits of a few numbers to the same few hundred runs: as arrays they take a second.

Shape letters: K problems solved together, R runs, P parameters.
"""

from typing import NamedTuple, Protocol

import numpy as np

from transformer.scaling.laws.penalty import Penalty

TOLERANCE = 1e-10
"""Share of the objective that the last Newton step may still promise to take off."""
_DAMPINGS = 1 / 256, 1 / 16, 1.0, 16.0
"""Factors of the last damping that each step tries; the best is taken."""


class Form(Protocol):
    """A form of the loss over R runs, as the solver sees it."""

    @property
    def objective(self) -> Penalty: ...

    @property
    def lower(self) -> np.ndarray:
        """[P] bounds; a parameter whose bounds are equal is held fixed."""
        ...

    @property
    def upper(self) -> np.ndarray:
        """[P]."""
        ...

    def errors(self, theta: np.ndarray) -> np.ndarray:
        """Returns log L_hat - log L [K, R] at [K, P]."""
        ...

    def slopes(self, theta: np.ndarray) -> np.ndarray:
        """Returns the derivatives of log L_hat [K, R, P]."""
        ...

    def bends(self, theta: np.ndarray, pull: np.ndarray, slopes: np.ndarray) -> np.ndarray:
        """Returns the second derivatives of log L_hat, weighted by `pull` [K, R] and summed over runs: [K, P, P]."""
        ...


class Solved(NamedTuple):
    """K fits."""

    theta: np.ndarray
    """[K, P]."""
    objective: np.ndarray
    """[K]."""
    gain: np.ndarray
    """[K] share of the objective that one more Newton step promises to take off: 0 at a minimum."""
    converged: np.ndarray
    """[K] bool: whether the gain is below the tolerance."""


class Derivatives(NamedTuple):
    """The objective of K problems and its derivatives, at K points."""

    objective: np.ndarray
    """[K]."""
    gradient: np.ndarray
    """[K, P]."""
    hessian: np.ndarray
    """[K, P, P]. Huber's second derivative jumps at delta: this is one of the generalised Hessian's elements."""
    scale: np.ndarray
    """[K, P]: roots of the diagonal of the quadratic that touches the objective from above (iterated weights)."""


def objective(form: Form, theta: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns the summed penalty [K] at [K, P], where each run counts as often as [K, R] says."""
    return np.einsum("kr,kr->k", weights, form.objective.value(form.errors(theta)))


def derivatives(form: Form, theta: np.ndarray, weights: np.ndarray) -> Derivatives:
    """Returns the objective with its derivatives; takes the arguments of `objective`."""
    error, jacobian = form.errors(theta), form.slopes(theta)
    pull = weights * form.objective.pull(error)
    bend = weights * form.objective.bend(error)
    hessian = (jacobian * bend[..., None]).transpose(0, 2, 1) @ jacobian + form.bends(theta, pull, jacobian)
    touching = weights * form.objective.touching(error)
    scale = np.sqrt(np.einsum("kr,krp->kp", touching, jacobian * jacobian)) + 1e-15
    return Derivatives(
        np.einsum("kr,kr->k", weights, form.objective.value(error)),
        np.einsum("kr,krp->kp", pull, jacobian),
        hessian,
        # Where a term is 0, its exponent has no scale of its own.
        np.maximum(scale, 1e-4 * scale.max(1, keepdims=True)),
    )


def outward(form: Form, theta: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Returns [..., P] bool: whether a parameter is fixed, or at a bound that the objective falls beyond."""
    lower, upper = form.lower, form.upper
    return (lower == upper) | ((theta <= lower) & (gradient > 0)) | ((theta >= upper) & (gradient < 0))


def solve(
    form: Form, theta: np.ndarray, weights: np.ndarray, iterations: int = 200, tolerance: float = TOLERANCE
) -> Solved:
    """Returns the minima next to K starts: every step goes down, and none leaves the bounds.

    A step solves with the Hessian's eigenvalues taken positive and raised by a damping, in the scale of the touching
    quadratic (Levenberg 1944, Marquardt 1963). Several dampings are tried: an objective costs a fraction of a Hessian.

    Args:
      form: the form to fit.
      theta: [K, P] starts.
      weights: [K, R], or [1, R] for all.
      iterations: the most steps; a fit that needs more is not converged.
      tolerance: as `TOLERANCE`.
    """
    theta = np.clip(theta, form.lower, form.upper)
    weights = np.broadcast_to(weights, (len(theta), weights.shape[1]))
    value, gain = np.full(len(theta), np.inf), np.full(len(theta), np.inf)
    damping = np.full(len(theta), 1e-2)
    live = np.arange(len(theta))
    for _ in range(iterations):
        at, weight = theta[live], weights[live]
        now = derivatives(form, at, weight)
        frozen = outward(form, at, now.gradient)
        slope = np.where(frozen, 0.0, now.gradient / now.scale)
        scaled = now.hessian / (now.scale[:, :, None] * now.scale[:, None, :])
        curvature, axes = np.linalg.eigh(np.where(frozen[:, :, None] | frozen[:, None, :], 0.0, scaled))
        along = np.einsum("kpj,kp->kj", axes, slope)
        tried = np.abs(curvature) + np.multiply.outer(_DAMPINGS, damping[live])[..., None]
        step = -np.einsum("kpj,tkj->tkp", axes, along / tried) / now.scale
        new = np.clip(at + step, form.lower, form.upper)
        after = np.stack([objective(form, each, weight) for each in new])
        best = np.argmin(after, 0)
        chosen = best, np.arange(len(live))
        down = after[chosen] < now.objective
        theta[live] = np.where(down[:, None], new[chosen], at)
        value[live] = np.where(down, after[chosen], now.objective)
        # The second term is a perfect fit's rounding.
        floor = now.objective + weight.sum(1) * 1e-22
        gain[live] = (along**2 / (np.abs(curvature) + 1e-9)).sum(1) / 2 / floor
        factor = np.where(down, np.take(_DAMPINGS, best) / 2, 16 * max(_DAMPINGS))
        damping[live] = np.maximum(damping[live] * factor, 1e-13)
        live = live[(gain[live] >= tolerance) & (damping[live] < 1e8)]
        if not len(live):
            break
    return Solved(theta, value, gain, gain < tolerance)
