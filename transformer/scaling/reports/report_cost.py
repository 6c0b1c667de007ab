"""The report's sections on what a study cost (runs, time, energy) and on how everything was counted."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from transformer.models import conventions
from transformer.scaling.reports import energy, page
from transformer.scaling.reports.energy import Energy, Power
from transformer.scaling.reports.results import Results, RunResult
from transformer.scaling.reports.wording import number, scientific, short


class Inputs(NamedTuple):
    """The user's numbers for an estimate of energy."""

    watts: float | None
    """Power of one device; None: by the table of energy.py."""
    cores: int
    """Cores that each run computed on, where it was on a processor."""
    carbon: float
    """g CO2-equivalent a kWh."""


def runs(results: Results) -> Iterator[str]:
    """Yields the section on every run and its cost."""
    yield page.heading("Runs, and what they cost")
    flops = sum(run.flops for run in results.runs)
    hours = sum(_hours(run) for run in results.runs)
    caption = (
        f"In all {scientific(flops)} FLOPs, and {hours:.3g} hours of training, without compiling, evaluating, saving, "
        "and updates that were lost and made again. C: of a run's own updates; what branches share, their trunk pays."
    )
    head = "run", "state", "begins at update", "N", "D", "D / N", "own C", "own updates", "minutes", "loss"
    yield page.table(caption, head, map(_row, results.runs), words=3)


def used(results: Results, measured: Energy | None, inputs: Inputs) -> Iterator[str]:
    """Yields the section on energy and CO2, measured and estimated, with the inputs of the estimate."""
    yield page.heading("Energy and CO2")
    if measured is not None:
        yield page.paragraph(
            f"Measured by codecarbon while the study ran, of the whole machine: {measured.kwh:.3g} kWh, "
            f"{measured.co2:.3g} kg CO2-equivalent."
        )
    hours: dict[str, float] = {}
    for run in results.runs:
        devices, kind = run.device
        if run.seconds > 0:
            hours[kind] = hours.get(kind, 0.0) + devices * _hours(run)
    given = None if inputs.watts is None else Power(inputs.watts, "--watts")
    powers = {kind: given or energy.power(kind, inputs.cores) for kind in hours}
    known = [(kind, power) for kind, power in powers.items() if power is not None]
    took = [energy.estimate(hours[kind], power.watts, inputs.carbon) for kind, power in known]
    if took:
        source = ", the world's mean in 2023 (Ember)" if inputs.carbon == energy.WORLD_MEAN else ""
        yield page.paragraph(
            f"An estimate: {sum(each.kwh for each in took):.3g} kWh, {sum(each.co2 for each in took):.3g} kg "
            f"CO2-equivalent. It is hours of training, times rated power, times {inputs.carbon:g} g CO2-equivalent a "
            f"kWh{source}. It leaves out hosts, memory, cooling, compiling and evaluating, and takes a device for as "
            "busy as its rating."
        )
        rows = [
            (kind, power.source, f"{hours[kind]:.4g}", f"{power.watts:g}", f"{each.kwh:.3g}", f"{each.co2:.3g}")
            for (kind, power), each in zip(known, took, strict=True)
        ]
        head = "device", "power from", "device hours", "W a device", "kWh", "kg CO2-equivalent"
        yield page.table("What the estimate is made of.", head, rows, words=2)
    if not hours:
        yield page.paragraph("No update was timed: there is nothing to estimate from.")
    if "cpu" in hours and inputs.watts is None:
        yield page.paragraph(
            f"Each run on a processor is taken to have had {inputs.cores} cores; by default those are all of the "
            "machine that wrote this page, too many where several runs shared them (--cores)."
        )
    for kind, power in powers.items():
        if power is None:
            yield page.paragraph(f"The power of {kind!r} is not known, and it is left out: give it by --watts.")


def provenance(results: Results) -> Iterator[str]:
    """Yields the section on the conventions, the data's digest, and the programs' versions."""
    yield page.heading("How it was counted, and by what")
    plan, source = results.study, results.source
    how = (conventions.convention(plan.convention).__doc__ or "").splitlines()[0]
    lines = [
        f"C, FLOPs, by {plan.convention}: {how}",
        f"N, parameters, {plan.size}: {', '.join(conventions.kinds_of(plan.size))}.",
        "D: tokens read, repeated ones included.",
    ]
    if source is not None:
        ranges = "; ".join(
            f"{name} {scientific(low)} to {scientific(high)}" for name, (low, high) in source.ranges.items()
        )
        lines += [
            f"The laws were fitted to {source.path}, FLOPs by {source.convention}, {source.dropped} of the highest "
            f"losses dropped; {ranges}.",
            f"SHA-256 of its numbers: {source.digest}",
        ]
    yield page.bullets(lines)
    writers = Counter(_writer(run) for run in results.runs if run.writer)
    if writers:
        rows = [(devices, versions, str(count)) for (devices, versions), count in writers.items()]
        yield page.table("What wrote the runs' newest checkpoints.", ("devices", "versions", "runs"), rows, words=2)


def _row(run: RunResult) -> Sequence[str]:
    cell = run.cell
    state = f"{run.state}, held out" if cell.held_out else run.state
    begins = f"{cell.branch} of {cell.trunk}" if cell.trunk else ""
    return (
        cell.name, state, begins, short(cell.params), short(cell.tokens), f"{cell.tokens / cell.params:.3g}",
        scientific(run.flops), f"{run.own_steps:,}", number(run.seconds / 60, ".3g"),
        number(run.loss, ".4f"),
    )  # fmt: skip


def _hours(run: RunResult) -> float:
    return 0.0 if math.isnan(run.seconds) else run.seconds / 3600


def _writer(run: RunResult) -> tuple[str, str]:
    versions = [f"{name} {version}" for name, version in run.writer["versions"].items()]
    return run.writer["devices"], ", ".join([f"Python {run.writer['python']}", *versions])
