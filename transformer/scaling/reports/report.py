"""Report: a study as one HTML page with its figures, which says what is missing and how to get it."""

import io
import math
import os
from collections import Counter
from collections.abc import Iterator

import numpy as np
from etils import epath

from transformer.checkpoint import write_atomically
from transformer.errors import UserError
from transformer.scaling.laws import findings, isoflop, words
from transformer.scaling.laws.allocation import AllocationLaw
from transformer.scaling.laws.law_file import Fitted
from transformer.scaling.laws.parametric import Chinchilla
from transformer.scaling.laws.table import RunTable
from transformer.scaling.reports import energy, figures, page, report_cost
from transformer.scaling.reports.results import Results, read_results
from transformer.scaling.reports.wording import interval, number, scientific, short
from transformer.scaling.studies import held_out

PICTURES = "loss-curves", "isoflop", "allocation", "held-out", "residuals", "bootstrap"
"""Names of the figures, STUDY/report/NAME.png."""
_DPI = 120


class Drawing:
    """Draws pictures into a folder and onto a page."""

    def __init__(self, folder: epath.Path):
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for name in PICTURES:  # those of an earlier report may not be drawn again
            (folder / f"{name}.png").unlink(missing_ok=True)

    def add(self, name: str, figure: figures.Figure, alternative: str, caption: str) -> str:
        """Writes a picture's file and returns the picture as HTML."""
        held = io.BytesIO()
        figure.savefig(held, format="png", dpi=_DPI)
        (self._folder / f"{name}.png").write_bytes(held.getvalue())
        return page.figure(held.getvalue(), alternative, caption)


def report(
    folder: epath.PathLike, *, watts: float | None = None, cores: int | None = None, carbon: float = energy.WORLD_MEAN
) -> epath.Path:
    """Writes STUDY/report.html and STUDY/report/*.png, as far as the study has got; returns the page's path.

    Args:
      folder: STUDY.
      watts: power of one device, in place of the table's figure.
      cores: cores that each run computed on, where it was on a processor; by default all of this machine's.
      carbon: g CO2-equivalent a kWh.

    Raises:
      UserError: there is no study, a file of it is damaged, or a figure is not positive.
    """
    for flag, value in (("watts", watts), ("cores", cores), ("carbon", carbon)):
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"--{flag} {value}: it must be positive and finite")
    folder = epath.Path(folder).expanduser()
    results = read_results(folder)
    drawing = Drawing(folder / "report")
    inputs = report_cost.Inputs(watts, len(os.sched_getaffinity(0)) if cores is None else cores, carbon)
    parts = [
        *_summary(results, folder),
        *_curves(results, drawing, folder),
        *_parabolas(results, drawing),
        *_predictions(results, drawing, folder),
        *_allocation(results, drawing),
        *_residuals(results, drawing),
        *_laws(results, drawing),
        *report_cost.runs(results),
        *report_cost.used(results, energy.measured(folder), inputs),
        *report_cost.provenance(results),
    ]
    path = folder / "report.html"
    write_atomically(path, page.document(f"Scaling study {folder.resolve().name}", parts).encode())
    return path


def _foremost(results: Results) -> Fitted | None:
    """Returns the first of the laws that predicts the runs' losses."""
    if results.fitted is None:
        return None
    return next((law for law in results.laws if figures.says_losses(law.fit.law, results.fitted)), None)


def _summary(results: Results, folder: epath.Path) -> Iterator[str]:
    plan = results.study
    budgets = sorted({cell.budget for cell in plan.cells})
    held = sorted({cell.budget for cell in plan.cells if cell.held_out})
    states = Counter(run.state for run in results.runs)
    yield page.paragraph(
        f"{len(plan.cells)} runs of the preset {plan.preset} at {len(budgets)} budgets, "
        f"{', '.join(map(scientific, budgets))} FLOPs"
        + (f"; {', '.join(map(scientific, held))} held out, to be predicted. " if held else ". ")
        + f"{', '.join(f'{count} {state}' for state, count in states.items())}."
    )
    if (main := _foremost(results)) is not None:
        name, numbers = main.fit.law.name, main.fit.law.parameters()
        if "a" in numbers:
            within = interval(main.bootstrap.intervals().get("a"), ".3f")
            yield page.paragraph(f"{name}: the best size grows as C^a, a = {numbers['a']:.3f} {within}.")
        if results.held_out is not None:
            did = held_out.score(held_out.compare(main, results.held_out))
            hit = f", and {did.inside} of {did.judged} lie in its 95 % interval of one run" if did.judged else ""
            count = len(results.held_out)
            yield page.paragraph(f"Held out: {count} losses are {did.error:.2%} off what {name} predicted{hit}.")
    yield page.warnings(_notices(results, folder))


def _notices(results: Results, folder: epath.Path) -> Iterator[tuple[str, str]]:
    """Yields the reasons why this page is incomplete or doubtful, and what to do about each."""
    for run in results.runs:
        name = run.cell.name
        if run.state == "not finite":
            yield "not-finite", f"{name} ended with a loss that is not finite; it is in no table and no fit"
        elif run.state == "unfinished":
            reason = run.last_words or f"python tools/scaling.py run {folder} goes on with it"
            yield "unfinished", f"{name} is at update {run.steps[-1]} of {run.cell.steps}: {reason}"
        elif run.last_words:
            yield "failed", f"{name}: {run.last_words}"
    waiting = sum(run.state == "not begun" and not run.last_words for run in results.runs)
    if waiting:
        yield "not-begun", f"{waiting} runs have not begun: python tools/scaling.py run {folder}"
    if results.source is None:
        yield "no-law", f"no law has been fitted: python tools/scaling.py fit {folder}"
    elif results.stale:
        yield "stale-law", f"the laws were fitted to other runs than these: python tools/scaling.py fit {folder}"
    for law in results.laws:
        if codes := dict.fromkeys(each.code for each in law.fit.warnings):
            yield law.fit.law.name, f"fitted with warnings: {', '.join(codes)}; each is explained under its law"


def _curves(results: Results, drawing: Drawing, folder: epath.Path) -> Iterator[str]:
    yield page.heading("Loss curves")
    if not any(len(run.steps) for run in results.runs):
        yield page.paragraph(f"No run has begun: python tools/scaling.py run {folder}")
        return
    yield drawing.add(
        "loss-curves",
        figures.loss_curves(results),
        "Training loss of every run over the tokens it read, coloured by the size of its model.",
        "Training loss of logged updates: pale as it is, and smoothed over a thirtieth of a decade. A run that was "
        "cooled down from a checkpoint of a longer one begins on that one's curve.",
    )


def _parabolas(results: Results, drawing: Drawing) -> Iterator[str]:
    yield page.heading("IsoFLOP parabolas")
    tables = [table for table in (results.fitted, results.held_out) if table is not None]
    if not any(isoflop.budgets(table) for table in tables):
        yield page.paragraph("No budget has runs of three sizes that ended: there is no parabola to draw.")
        return
    yield drawing.add(
        "isoflop",
        figures.parabolas(results.fitted, results.held_out),
        "Loss over size at every budget, with a parabola and its lowest point.",
        "Runs that cost the same, by size; each repeat is a point. The parabola is of least squares in log N; one "
        "whose lowest point is not inside its sizes has no star, and the fit leaves it out.",
    )


def _predictions(results: Results, drawing: Drawing, folder: epath.Path) -> Iterator[str]:
    yield page.heading("Held-out runs")
    main, table = _foremost(results), results.held_out
    if not any(cell.held_out for cell in results.study.cells):
        yield page.paragraph("This study holds no run out: plan it with --hold-out 1 to see how well it predicts.")
    elif table is None:
        yield page.paragraph(f"No held-out run has ended: python tools/scaling.py run {folder}")
    elif main is None or results.source is None:
        yield page.paragraph(f"No law says a loss to compare with: python tools/scaling.py fit {folder}")
    else:
        yield drawing.add(
            "held-out",
            figures.predictions(main, table),
            f"Loss over size of the held-out runs: predicted by {main.fit.law.name}, with intervals, and measured.",
            "These runs were no part of the fit. The dark band is the law's own uncertainty, the pale one that of one "
            "run, which has the noise of a run on top.",
        )
        yield _held_out_table(main, table, results.source.ranges["flops"][1])
        scores = [
            (law.fit.law.name, held_out.score(held_out.compare(law, table)))
            for law in results.laws
            if figures.says_losses(law.fit.law, table)
        ]
        if len(scores) > 1:
            rows = [(name, f"{did.error:.2%}", str(did.inside), str(did.judged)) for name, did in scores]
            yield page.table("Every law that says a loss.", ("law", "mean error", "inside", "of"), rows)


def _held_out_table(law: Fitted, table: RunTable, largest: float) -> str:
    head = "run", "N", "D", "decades on", "predicted", "95 %, law", "95 %, one run", "measured", "error", "it is"
    rows = [
        (
            each.name, short(each.params), short(each.tokens), f"{math.log10(each.flops / largest):+.2f}",
            f"{each.predicted:.4f}", interval(each.of_law, ".4f"), interval(each.of_run, ".4f"),
            f"{each.measured:.4f}", f"{each.error:+.2%}", {None: "", True: "inside", False: "OUTSIDE"}[each.inside],
        )
        for each in held_out.compare(law, table)
    ]  # fmt: skip
    caption = (
        f"{law.fit.law.name} against the held-out runs. Decades on: of C, above the dearest fitted run. Error: "
        "measured over predicted, less 1. Inside, or not: the interval of one run."
    )
    return page.table(caption, head, rows)


def _allocation(results: Results, drawing: Drawing) -> Iterator[str]:
    yield page.heading("The best size and tokens of a budget")
    source = results.source
    if source is None or not any(_allocates(law, source.ranges["flops"][1]) for law in results.laws):
        yield page.paragraph("No fitted law says what is best for a budget.")
        return
    yield drawing.add(
        "allocation",
        figures.allocations(results.laws, source, results.fitted, results.held_out),
        "The best number of parameters and of tokens over the budget, by every law, with bands.",
        "Bands, and dotted lines of the other laws, are 95 % percentiles of the refits, cut where they leave the "
        "picture; outside the grey range a line is dashed: nothing that it was fitted to was measured there. "
        "Allocations drift where losses hold: many sizes "
        f"have nearly the best loss. C is 6 N D; for isoflop and envelope, what the table has ({source.convention}).",
    )
    rows = [
        (
            scientific(flops), by, short(best.params), interval(best.of_params), short(best.tokens),
            interval(best.of_tokens), number(best.loss, ".4f"), interval(best.of_loss, ".4f"),
        )
        for flops, by, best in (() if results.held_out is None else held_out.best(results.laws, results.held_out))
    ]  # fmt: skip
    if rows:
        head = "C", "by", "N*", "95 %", "D*", "95 %", "loss", "95 %"
        caption = "The best of a held-out budget: where the parabola through its runs is lowest, and as predicted."
        yield page.table(caption, head, rows, words=2)


def _allocates(law: Fitted, flops: float) -> bool:
    return math.isfinite(law.fit.law.optimum(flops).params)


def _residuals(results: Results, drawing: Drawing) -> Iterator[str]:
    main = _foremost(results)
    if main is None or results.fitted is None:
        return
    yield page.heading("Residuals")
    yield drawing.add(
        "residuals",
        figures.residuals(main, results.fitted, results.held_out),
        f"Measured loss against what {main.fit.law.name} says, and their ratio over size and over tokens.",
        f"Of {main.fit.law.name}. A law that fits leaves a cloud without a slope or a bend; one that extrapolates "
        "leaves the hollow points in it.",
    )


def _laws(results: Results, drawing: Drawing) -> Iterator[str]:
    if results.laws:
        yield page.heading("The laws")
    for each in results.laws:
        law, refits = each.fit.law, each.bootstrap
        yield page.heading(law.name, 3)
        form = AllocationLaw.__doc__ if isinstance(law, AllocationLaw) else type(law).__doc__
        form = (form or "").splitlines()[0]
        yield page.paragraph(f"{form} {words.count(each.fit.rows, law.fitted_to)}, objective {each.fit.objective:.6g}.")
        yield _numbers(each)
        yield page.warnings(each.fit.warnings)
        if each.findings:
            yield page.bullets(findings.describe(each.findings))
        if isinstance(law, Chinchilla) and len(refits.laws) > 1:
            yield drawing.add(
                "bootstrap",
                figures.pairs(each),
                "Scatter of the refits' numbers in pairs, and a histogram of the exponent a.",
                f"The numbers of {len(refits.laws)} refits; the cross is the fit to all runs. Where two lie along a "
                "line, the runs hardly tell one from the other. One refit in a hundred is off the picture. Dashed "
                "lines are the ends of the 95 % interval.",
            )


def _numbers(law: Fitted) -> str:
    refits = law.bootstrap
    errors, spread = refits.standard_errors(), refits.intervals()
    rows = [
        (name, number(value, ".5g"), number(errors.get(name, np.nan), ".3g"), interval(spread.get(name), ".4g"))
        for name, value in law.fit.law.parameters().items()
    ]
    count = len(refits.laws) + refits.failed
    caption = f"Intervals are percentiles of {count} refits to runs drawn with replacement; {refits.failed} failed."
    return page.table(caption, ("number", "value", "standard error", "95 % interval"), rows)
