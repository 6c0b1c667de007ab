"""What was found about a fit of the parametric law, in lines for people: of the law file's `findings`."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from transformer.scaling.laws import words


def describe(found: Mapping[str, Any]) -> Iterator[str]:
    """Yields convergence, other minima, outliers, influence, drift and lack of fit, as far as there are any."""
    convergence, moved, drifted = found["convergence"], found["influence"], found["drift"]
    state = "converged" if convergence["converged"] else "NOT CONVERGED"
    yield (
        f"{state}: gradient {convergence['gradient']:.1e}, another solver takes off {convergence['better']:.1e}; "
        f"condition number {found['condition']:.3g}"
    )
    for other in found["minima"][1:]:
        starts = words.count(other["starts"], "start")
        yield f"another minimum: objective {other['objective']:.6g}, {_shown(other)}; {starts}"
    if found["outliers"]["without"]:
        without = found["outliers"]["without"]
        yield f"without {words.count(len(found['outliers']['rows']), 'outlier')}: {_shown(without)}"
    yield (
        "leaving out one run: "
        + (f"a {moved['a']:.3f} without {moved['row']}; " if _known(moved["a"]) else "")
        + f"the loss a decade on {moved['loss']:+.2%} without {moved['loss_row']}"
    )
    if drifted:
        yield (
            f"{drifted['fitted']} runs below {drifted['below']:.3g} FLOPs predict the other {drifted['predicted']} "
            f"losses to {drifted['error']:.2%}"
            + (
                f"; a moves from {drifted['a_before']:.3f} to {drifted['a_after']:.3f}"
                if _known(drifted["a_after"])
                else ""
            )
        )
    misfit = found["lack_of_fit"]
    if misfit:
        test = f"F {misfit['ratio']:.3g}, p {misfit['probability']:.2g}"
        yield f"repeats: noise {misfit['noise']:.2%}; lack of fit {test}"


def _known(value: float | None) -> bool:
    """Whether there is a number: a law file's null and a fit's NaN are none."""
    return value is not None and not math.isnan(value)


def _shown(numbers: Mapping[str, float]) -> str:
    """Returns a law's numbers that tell one minimum from another."""
    return ", ".join(f"{name} {numbers[name]:.4g}" for name in _TELLING if _known(numbers.get(name)))


_TELLING = "E", "alpha", "beta", "alpha_N", "alpha_D", "eta", "R_D"
