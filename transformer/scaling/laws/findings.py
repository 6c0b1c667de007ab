"""Findings about a fit of a parametric law, from the law file, in lines for people."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from transformer.scaling.laws import words


def describe(findings: Mapping[str, Any]) -> Iterator[str]:
    """Yields the lines about convergence, other minima, outliers, influence, drift and lack of fit."""
    convergence, influence, drift = findings["convergence"], findings["influence"], findings["drift"]
    state = "converged" if convergence["converged"] else "NOT CONVERGED"
    yield (
        f"{state}: gradient {convergence['gradient']:.1e}, another solver takes off {convergence['better']:.1e}; "
        f"condition number {findings['condition']:.3g}"
    )
    for other in findings["minima"][1:]:
        starts = words.count(other["starts"], "start")
        yield f"another minimum: objective {other['objective']:.6g}, {_shown(other)}; {starts}"
    if findings["outliers"]["without"]:
        without = findings["outliers"]["without"]
        yield f"without {words.count(len(findings['outliers']['rows']), 'outlier')}: {_shown(without)}"
    yield (
        "leaving out one run: "
        + (f"a {influence['a']:.3f} without {influence['row']}; " if _known(influence["a"]) else "")
        + f"the loss a decade on {influence['loss']:+.2%} without {influence['loss_row']}"
    )
    if drift:
        yield (
            f"{drift['fitted']} runs below {drift['below']:.3g} FLOPs predict the other {drift['predicted']} "
            f"losses to {drift['error']:.2%}"
            + (f"; a moves from {drift['a_before']:.3f} to {drift['a_after']:.3f}" if _known(drift["a_after"]) else "")
        )
    misfit = findings["lack_of_fit"]
    if misfit:
        test = f"F {misfit['ratio']:.3g}, p {misfit['probability']:.2g}"
        yield f"repeats: noise {misfit['noise']:.2%}; lack of fit {test}"


def _known(value: float | None) -> bool:
    """Whether there is a number: a law file's null and a fit's NaN are none."""
    return value is not None and not math.isnan(value)


def _shown(numbers: Mapping[str, float]) -> str:
    """Returns the numbers of a law that tell one minimum from another."""
    return ", ".join(f"{name} {numbers[name]:.4g}" for name in _TELLING if _known(numbers.get(name)))


_TELLING = "E", "alpha", "beta", "alpha_N", "alpha_D", "eta", "R_D"
