"""Measure how often the intervals of a fitted law hold the truth: python tools/bench_scaling.py --studies 300."""

import dataclasses
import sys

from transformer import command


@dataclasses.dataclass(frozen=True)
class Command:
    """Measure, over simulated studies of a known law, how often 95 % intervals hold the truth."""

    studies: int = 300
    """Studies of each design and noise; about a minute a hundred."""
    refits: int = 400
    """Refits of each study."""
    noise: float = 0.005
    """Standard deviation of log loss, between runs that differ in their seed."""
    seed: int = 0
    """Seed of all that is drawn."""


def main(args: list[str]) -> None:
    """Runs the command line."""
    flags = command.parse(Command, args, prog="tools/bench_scaling.py")
    import numpy as np

    from transformer.scaling.laws import coverage, synthetic

    designs = {
        "18 runs, 3 budgets": synthetic.isoflop(coverage.TRUTH, np.array([3e18, 1e19, 3e19]), 6, 4.0),
        "40 runs, 5 budgets": synthetic.isoflop(coverage.TRUTH, np.logspace(18, 20.5, 5), 8, 4.0),
        "144 runs, 12 budgets": synthetic.isoflop(coverage.TRUTH, np.logspace(18, 21.5, 12), 12, 8.0),
    }
    print(f"{flags.studies} studies each, {flags.refits} refits, noise {flags.noise:.1%}; nominal 95 %")
    for name, design in designs.items():
        for kind, noise in (("even", coverage.even(flags.noise)), ("uneven", coverage.uneven(flags.noise))):
            measured = coverage.measure(design, noise, flags.studies, flags.refits, flags.seed)
            shares = "  ".join(f"{quantity} {share:.1%}" for quantity, share in measured.held.items())
            print(f"{name:22}{kind:8}{shares}   width of a {measured.width['a']:.3f}", flush=True)


if __name__ == "__main__":
    sys.exit(command.run(lambda: main(sys.argv[1:])))
