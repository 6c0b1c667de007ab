"""Figures of a study. Each function returns a matplotlib Figure.

Ordered things (budgets, sizes) are coloured by viridis, laws by the colours of Okabe and Ito 2008: colour-blind readers
can tell both apart. Fitted runs are filled, held-out runs hollow; measured ranges are solid, extrapolations dashed.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from transformer.errors import UserError

try:
    import matplotlib
except ImportError as error:
    raise UserError("drawing needs matplotlib: pip install -e '.[plot]'") from error
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator, PercentFormatter

from transformer.scaling.laws import allocation, bootstrap, isoflop, predict
from transformer.scaling.laws.law import Law
from transformer.scaling.laws.law_file import Fitted, TableRecord
from transformer.scaling.laws.table import RunTable
from transformer.scaling.reports.results import Results
from transformer.scaling.reports.wording import scientific, short

_LAW_COLOURS = {
    "chinchilla": "#0072b2",
    "isoflop": "#d55e00",
    "envelope": "#009e73",
    "kaplan": "#cc79a7",
    "overtrain": "#e69f00",
    "repeat": "#56b4e9",
}
_BLUE, _RED, _GREY = "#0072b2", "#d55e00", "0.45"
_VIRIDIS = LinearSegmentedColormap.from_list("viridis", matplotlib.colormaps["viridis"](np.linspace(0, 0.82, 256)))
"""Viridis without its yellow end, which is hard to see on white."""
_FINE = 1, 1.2, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 9
"""Labels of a logarithmic axis that is less than half a decade long, or that losses are on."""
_WIDTH = 0.03
"""Width of the window that smooths loss curves, in decades of tokens: less than a cooldown's, at least 0.05."""
_DASHES = (0, (4, 2.5))
_BEYOND = 30.0
"""Factor beyond the largest budget up to which the allocation is drawn: a decade and a half."""


def loss_curves(results: Results) -> Figure:
    """Draws the training loss of every run over the tokens it read, and its last validation loss."""
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    axes = _axes(figure, "D, tokens read", "loss, nats a target")
    begun = [run for run in results.runs if len(run.steps)]
    sizes = [run.cell.params for run in begun]
    smallest, largest = min(sizes), max(max(sizes), 2 * min(sizes))
    norm = LogNorm(smallest, largest)
    for run in begun:
        colour, tokens, losses = _VIRIDIS(norm(run.cell.params)), run.tokens, run.losses
        if run.cell.trunk is not None:  # it goes on from a point of its trunk's curve
            trunk = results[run.cell.trunk]
            shared = np.flatnonzero(trunk.steps <= (run.cell.branch or 0))[-1:]
            tokens = np.concatenate([trunk.tokens[shared], tokens])
            losses = np.concatenate([trunk.losses[shared], losses])
        axes.plot(tokens, losses, color=colour, linewidth=0.6, alpha=0.3, gid="curve")
        axes.plot(tokens, smooth(tokens, losses), color=colour, linewidth=1.2)
        if run.state == "ended":
            fill = "white" if run.cell.held_out else colour
            axes.plot(run.cell.tokens, run.loss, "o", color=colour, markerfacecolor=fill, markersize=5.5, zorder=3)
        else:
            known = np.flatnonzero(np.isfinite(losses))[-1:]
            axes.plot(tokens[known], losses[known], "x", color=_RED, markersize=8, markeredgewidth=2, zorder=4)
    _log(axes, "x", short)
    _log(axes, "y", lambda value: f"{value:g}", _FINE)
    kinds = [
        (any(run.state == "ended" and not run.cell.held_out for run in begun), _marker("o", "validation, fitted")),
        (any(run.state == "ended" and run.cell.held_out for run in begun), _hollow("validation, held out")),
        (any(run.state != "ended" for run in begun), _marker("x", "did not end, or not finite", _RED)),
    ]
    axes.legend(handles=[Line2D([], [], color=_GREY, label="training"), *(mark for shown, mark in kinds if shown)])
    bar = figure.colorbar(ScalarMappable(norm, _VIRIDIS), ax=axes, pad=0.02)
    bar.set_label("N, parameters")
    bar.ax.yaxis.set_major_locator(_locator(largest / smallest))
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    bar.ax.yaxis.set_minor_locator(NullLocator())
    return figure


def parabolas(fitted: RunTable | None, held_out: RunTable | None) -> Figure:
    """Draws every budget's losses over the size, with the parabola that isoflop.py fits and its lowest point."""
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    axes = _axes(figure, "N, parameters", "loss at the end, nats a target")
    profiles = [
        (profile, table) for table in (fitted, held_out) if table is not None for profile in isoflop.profiles(table)
    ]
    budgets = [profile.flops for profile, _ in profiles]
    shades = dict(zip(sorted(budgets), _VIRIDIS(np.linspace(0, 1, max(len(budgets), 2))), strict=False))
    for profile, table in sorted(profiles, key=lambda each: each[0].flops):
        colour, hollow = shades[profile.flops], table is held_out
        params, losses = table.params[profile.rows], table.loss[profile.rows]
        label = f"{scientific(profile.flops)} FLOPs{', held out' if hollow else ''}"
        axes.plot(
            params,
            losses,
            "o",
            color=colour,
            markerfacecolor="white" if hollow else colour,
            label=label,
            markersize=5,
            zorder=3,
        )
        valley, x = profile.valley, np.geomspace(params.min() / 1.15, params.max() * 1.15, 200)
        if valley.curvature > 0:
            y = valley.depth + valley.curvature * np.log(x / valley.lowest) ** 2
            axes.plot(x, y, color=colour, linestyle="--" if hollow else "-", linewidth=1.3, gid="parabola")
        if valley.inside:
            mark = {"color": "black", "markerfacecolor": "none", "markersize": 12, "zorder": 4, "gid": "lowest"}
            axes.plot(valley.lowest, valley.depth, "*", **mark)
    for table in (fitted, held_out):
        rows = np.arange(0 if table is None else len(table))
        taken = [profile.rows for profile, of in profiles if of is table]
        left = np.setdiff1d(rows, np.concatenate(taken)) if taken else rows
        if table is not None and len(left):
            axes.plot(
                table.params[left],
                table.loss[left],
                "s",
                color="0.6",
                markersize=4,
                label="in no budget of three sizes",
            )
    _log(axes, "x", short)
    handles, _ = axes.get_legend_handles_labels()
    style = {"marker": "*", "color": "black", "markerfacecolor": "none", "markersize": 12}
    star = Line2D([], [], linestyle="", label="lowest point", **style)
    shown = [star] if any(profile.valley.inside for profile, _ in profiles) else []
    figure.legend(handles=[*handles, *shown], loc="outside right upper")
    return figure


def allocations(
    laws: Sequence[Fitted], source: TableRecord, fitted: RunTable | None, held_out: RunTable | None
) -> Figure:
    """Draws N*(C) and D*(C) of every law that has them, with 95 % bands, over the parabolas' lowest points."""
    figure = Figure(figsize=(10, 5), layout="constrained")
    low, high = source.ranges["flops"]
    top = high if held_out is None else max(high, float(held_out.flops.max()))
    flops = np.geomspace(low / 2, _BEYOND * top, 60)
    inside = (flops >= low) & (flops <= high)
    panels = _panels(figure, "C, FLOPs", ("N*, parameters", "D*, tokens"))
    for place, each in reversed(list(enumerate(laws))):  # the first on top, and thinnest: two may coincide
        best_ck = np.array([each.fit.law.optimum(float(budget)) for budget in flops])
        if not np.isfinite(best_ck).all():
            continue
        colour = _LAW_COLOURS.get(each.fit.law.name, _GREY)
        widths = 1.1 + 0.6 * min(place, 2), 1.6 + 0.8 * min(place, 2)
        bands_cqk = np.array([_band(each, float(budget)) for budget in flops])
        for column, axes in enumerate(panels):
            band = bands_cqk[:, :, column]
            axes.plot(flops, best_ck[:, column], color=colour, linestyle=_DASHES, linewidth=widths[0], gid="beyond")
            line = axes.plot(flops[inside], best_ck[inside, column], color=colour, linewidth=widths[1], gid="law")
            line[0].set_label(each.fit.law.name)
            if np.isfinite(band).all() and place == 0:  # more than one would be mud
                axes.fill_between(flops, band[:, 0], band[:, 1], color=colour, alpha=0.15, linewidth=0, gid="band")
            elif np.isfinite(band).all():
                axes.plot(flops, band, color=colour, linewidth=0.8, linestyle=":", gid="band")
    for column, axes in enumerate(panels):
        axes.axvspan(low, high, color="0.9", zorder=0, label="fitted range")
        for table, fill, label in ((fitted, "black", "parabola, fitted"), (held_out, "white", "parabola, held out")):
            valleys = [] if table is None else [profile for profile in isoflop.profiles(table) if profile.valley.inside]
            y = [profile.valley.lowest if column == 0 else profile.tokens for profile in valleys]
            if valleys:
                dots = {"color": "black", "markerfacecolor": fill, "markersize": 6, "zorder": 5, "label": label}
                axes.plot([profile.flops for profile in valleys], y, "o", **dots)
        lines = [line for line in axes.get_lines() if line.get_gid() != "band"]
        drawn = np.concatenate([np.asarray(line.get_ydata(), np.float64) for line in lines])
        axes.set_ylim(drawn.min() / 2, drawn.max() * 2)  # an unidentified law's band is endless
        _log(axes, "x", scientific)
        _log(axes, "y", short)
    handles, labels = panels[0].get_legend_handles_labels()
    drawn_laws = sum(each.fit.law.name in labels for each in laws)
    handles[:drawn_laws] = reversed(handles[:drawn_laws])
    dashed = Line2D([], [], color=_GREY, linestyle=_DASHES, label="beyond what was fitted")
    figure.legend(handles=[*handles, dashed], loc="outside lower center", ncols=4, frameon=False)
    return figure


def predictions(fitted: Fitted, held_out: RunTable) -> Figure:
    """Draws the held-out budgets' losses over the size: a law's predictions, with both intervals, and the measured."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = _axes(figure, "N, parameters", "loss at the end, nats a target")
    groups = isoflop.budgets(held_out)
    alone = np.setdiff1d(np.arange(len(held_out)), np.concatenate([*groups, np.array([], int)]))
    for rows in groups:
        params = held_out.params[rows]
        k, exponent = allocation.power(params, held_out.tokens[rows])  # at this budget D is a power of N
        x = np.geomspace(params.min() / 1.15, params.max() * 1.15, 60)
        _predicted(axes, fitted, x, k * x**exponent)
    for row in alone:
        x = held_out.params[row] * np.array([0.93, 1.07])
        _predicted(axes, fitted, x, np.repeat(held_out.tokens[row], 2))
    axes.plot(
        held_out.params,
        held_out.loss,
        "o",
        color="black",
        markerfacecolor="white",
        markersize=7,
        zorder=4,
        gid="measured",
    )
    _log(axes, "x", short)
    handles = [
        Line2D([], [], color=_BLUE, label=f"{fitted.fit.law.name}, predicted"),
        Line2D([], [], color=_BLUE, alpha=0.45, linewidth=8, label="95 %, the law"),
        Line2D([], [], color=_BLUE, alpha=0.18, linewidth=8, label="95 %, one run"),
        _hollow("measured, held out"),
    ]
    axes.legend(handles=handles)
    return figure


def residuals(fitted: Fitted, table: RunTable, held_out: RunTable | None) -> Figure:
    """Draws a law's predicted losses against the measured ones, and their ratios by N and by D."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    panels = [figure.add_subplot(1, 3, place) for place in (1, 2, 3)]
    law = fitted.fit.law
    known: list[float] = []
    for each, fill, label in ((table, _BLUE, "fitted"), (held_out, "white", "held out")):
        if each is None:
            continue
        predicted = law.predict(each)
        known += [*predicted, *each.loss]
        style = {"color": _BLUE, "markerfacecolor": fill, "markersize": 5, "label": label}
        panels[0].plot(predicted, each.loss, "o", **style)
        panels[1].plot(each.params, each.loss / predicted - 1, "o", **style)
        panels[2].plot(each.tokens, each.loss / predicted - 1, "o", **style)
    ends = [np.nanmin(known), np.nanmax(known)]
    panels[0].plot(ends, ends, color=_GREY, linewidth=1, zorder=1)
    _name(panels[0], "predicted loss, nats", "measured loss, nats")
    for axes, what in ((panels[1], "N, parameters"), (panels[2], "D, tokens")):
        axes.axhline(0, color=_GREY, linewidth=1, zorder=1)
        _name(axes, what, "measured over predicted, less 1")
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        _log(axes, "x", short)
    panels[0].legend()
    return figure


def pairs(fitted: Fitted) -> Figure:
    """Draws how the numbers of a bootstrap's Chinchilla laws correlate, and how `a` spreads."""
    figure = Figure(figsize=(10, 6), layout="constrained")
    numbers, law = fitted.bootstrap.parameters(), fitted.fit.law
    best = law.parameters()
    names = [("alpha", "beta"), ("E", "A"), ("E", "B"), ("alpha", "A"), ("beta", "B")]
    for place, (x, y) in enumerate(names, start=1):
        axes = figure.add_subplot(2, 3, place)
        axes.plot(numbers[x], numbers[y], ".", color=_BLUE, alpha=0.35, markersize=4, markeredgewidth=0)
        axes.plot(best[x], best[y], "+", color=_RED, markersize=13, markeredgewidth=2.5, label="all runs")
        _name(axes, x, y)
        axes.set_xlim(_middle(numbers[x], best[x]))
        axes.set_ylim(_middle(numbers[y], best[y]))
        if y in ("A", "B"):
            axes.set_yscale("log")
            low, high = np.exp(_middle(np.log(numbers[y]), np.log(best[y])))
            axes.set_ylim(float(low), float(high))
            _log(axes, "y", lambda value: f"{value:g}" if 1e-2 < value < 1e5 else scientific(value))
        if place == 1:
            axes.legend()
    axes = figure.add_subplot(2, 3, 6)
    known = numbers["a"][np.isfinite(numbers["a"])]
    axes.hist(known, bins=min(30, max(len(known) // 10, 5)), color=_BLUE, alpha=0.6)
    axes.axvline(best["a"], color=_RED, linewidth=2)
    for edge in bootstrap.interval(numbers["a"]):
        if math.isfinite(edge):
            axes.axvline(edge, color=_GREY, linestyle="--", linewidth=1.2)
    _name(axes, "a, of N* ~ C^a", "refits")
    return figure


def says_losses(law: Law, table: RunTable) -> bool:
    """Whether a law predicts the loss of a table's runs."""
    return bool(np.isfinite(law.predict(table)).all())


def _band(fitted: Fitted, flops: float) -> np.ndarray:
    """Returns [2, 2]: the ends of the intervals of N* and D*."""
    refits = fitted.bootstrap.allocations(flops)[:, :2] if fitted.bootstrap.laws else np.full((0, 2), np.nan)
    return np.array([bootstrap.interval(column) for column in refits.T]).T


def _predicted(axes: Axes, fitted: Fitted, params: np.ndarray, tokens: np.ndarray) -> None:
    predictions = [predict.loss(fitted, float(n), float(d)) for n, d in zip(params, tokens, strict=True)]
    for band, alpha in (([each.of_run for each in predictions], 0.18), ([each.of_law for each in predictions], 0.45)):
        if np.isfinite(band).all():
            low, high = np.array(band).T
            axes.fill_between(params, low, high, color=_BLUE, alpha=alpha, linewidth=0, gid="band")
    axes.plot(params, [each.loss for each in predictions], color=_BLUE, linewidth=1.5, gid="law")


def _axes(figure: Figure, x: str, y: str) -> Axes:
    axes = figure.add_subplot()
    _name(axes, x, y)
    return axes


def _panels(figure: Figure, x: str, ys: Sequence[str]) -> list[Axes]:
    panels = [figure.add_subplot(1, len(ys), place) for place in range(1, len(ys) + 1)]
    for axes, y in zip(panels, ys, strict=True):
        _name(axes, x, y)
    return panels


def _name(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def smooth(tokens: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Returns losses smoothed by local straight lines over about a thirtieth of a decade, which keep steep parts."""
    x, known = np.log10(tokens), np.isfinite(losses)
    y = np.where(known, losses, 0.0)
    weights = np.exp(-0.5 * ((x[:, None] - x) / _WIDTH) ** 2) * known
    weights /= np.maximum(weights.sum(1, keepdims=True), 1e-300)
    middle, mean = weights @ x, weights @ y
    spread = weights @ x**2 - middle**2
    slope = (weights @ (x * y) - middle * mean) / np.maximum(spread, 1e-9)
    return np.where(known, mean + slope * (x - middle), np.nan)


def _middle(values: np.ndarray, best: float) -> tuple[float, float]:
    """Returns axis limits that hold 99 of 100 values, and the best one."""
    low, high = np.quantile(values[np.isfinite(values)], [0.005, 0.995])
    low, high = min(float(low), best), max(float(high), best)
    margin = 0.06 * (high - low) + 1e-12
    return low - margin, high + margin


def _log(axes: Axes, which: str, form: Callable[[float], str], places: Sequence[float] | None = None) -> None:
    """Makes an axis logarithmic, with readable labels, more of them where it is short."""
    set_scale, axis = (axes.set_xscale, axes.xaxis) if which == "x" else (axes.set_yscale, axes.yaxis)
    set_scale("log")
    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    axis.set_major_locator(_locator(high / low) if places is None else LogLocator(subs=places, numticks=30))
    axis.set_major_formatter(FuncFormatter(lambda value, _: form(value)))
    axis.set_minor_formatter(NullFormatter())


def _locator(span: float) -> LogLocator:
    decades = math.log10(span)
    if decades > 2.5:
        return LogLocator(numticks=12)
    if decades > 1.2:
        return LogLocator(subs=(1, 3), numticks=30)
    if decades > 0.5:
        return LogLocator(subs=(1, 2, 5), numticks=30)
    return LogLocator(subs=_FINE, numticks=30)


def _marker(marker: str, label: str, colour: Any = _GREY, size: float = 6) -> Line2D:
    return Line2D([], [], linestyle="", marker=marker, color=colour, markersize=size, label=label)


def _hollow(label: str) -> Line2D:
    return Line2D([], [], linestyle="", marker="o", color="black", markerfacecolor="white", markersize=6, label=label)
