"""Run one step of a run again and look inside: python tools/replay.py RUN [STEP] [--show]."""

import dataclasses
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import tyro

from transformer import command
from transformer.errors import UserError

if TYPE_CHECKING:  # these take a second to import, after the flags are known to be good
    from transformer.debugging.examine import Entry, Examination
    from transformer.debugging.replay import Replay

AROUND = 4
"""Entries shown before and after the first that is not finite."""
LARGEST = 8
"""Parameters, gradients and rows shown where all is finite."""


@dataclasses.dataclass(frozen=True)
class Command:
    """Run one update of a run again, with its own batch and key, and say where its numbers stop being finite.

    The state is the run's own: restored from the nearest checkpoint before the step, from which the updates in between
    are made again. Nothing is written.
    """

    run: tyro.conf.Positional[str]
    """A run folder."""
    step: tyro.conf.Positional[int | None] = None
    """The update, 1 for the first; by default the newest that spiked (RUN/spikes/STEP.json)."""
    alone: bool = False
    """Do not make the updates in between: the step's batch meets the checkpoint's weights."""
    show: bool = False
    """Print the text of every row of the batch, those of the highest loss first."""


def main(args: list[str]) -> None:
    """Runs the command line."""
    flags = command.parse(Command, args, prog="tools/replay.py")
    if flags.step is not None and flags.step < 1:
        raise UserError(f"step {flags.step}: the first is 1")
    command.start_jax()
    from transformer.debugging.replay import replay
    from transformer.training.run import Run

    result = replay(Run(flags.run), flags.step, alone=flags.alone, report=print)
    print()
    print("\n".join([*headline(result), "", *tables(result.examination), "", *rows(result, show=flags.show)]))


def headline(result: "Replay") -> Iterator[str]:
    """Yields what was run, and how it compares with what the run saw."""
    from transformer.debugging.capsule import strict

    if result.began == result.step - 1:
        yield f"step {result.step:,}, with the state that the run had before it"
    else:
        yield f"step {result.step:,}, with the weights of step {result.began:,}: not the state that the run had there"
    loss, norm = result.metrics["loss"], result.metrics["grad_norm"]
    yield f"loss {loss:.6g}, gradient norm {norm:.6g}"
    if result.capsule is not None:
        seen = [result.capsule["loss"], result.capsule["grad_norm"]]
        same = seen == strict([loss, norm])
        bound = result.capsule["bound"]
        usual = "" if bound is None else f"; usual was a loss up to {bound:.6g}"
        yield (
            f"the run: {result.capsule['kind']}, loss {float(seen[0]):.6g}, gradient norm {float(seen[1]):.6g}"
            f"{' (the same, bit for bit)' if same else ''}{usual}"
        )


def tables(examination: "Examination") -> Iterator[str]:
    """Yields where the first value that is not finite arises or, where all are finite, how large they are."""
    bad = examination.first_bad()
    if bad is None:
        yield "every value is finite"
        yield ""
        modules = list(distinct(largest_layers(examination.forward)))
        yield from table("the largest of each module's outputs", modules)
        for title, entries in (("parameters", examination.parameters), ("gradients", examination.gradients)):
            top = sorted(largest_layers(entries), key=lambda entry: -entry.largest)[:LARGEST]
            yield ""
            yield from table(f"the largest {title}", top)
        return
    part, entry = bad
    yield f"the first value that is not finite arises in {_IN[part]}: {place(entry)} ({count(entry)})"
    for title, entries in (
        ("parameters, before the step", examination.parameters),
        ("forward, modules' outputs", examination.forward),
        ("loss", examination.loss),
        ("gradients, from the last module to the first", examination.gradients),
    ):
        yield ""
        first = next((at for at, entry in enumerate(entries) if entry.bad), None)
        if first is None:
            top = max(entries, key=lambda entry: entry.largest)
            yield f"{title}: all {len(entries)} are finite; the largest is {top.largest:.4g}, {place(top)}"
            continue
        shown = entries[max(first - AROUND, 0) : first + AROUND + 1]
        total = sum(entry.bad > 0 for entry in entries)
        yield from table(f"{title}: {total} of {len(entries)} are not finite", shown, mark=entries[first])


_IN = {
    "parameters": "the parameters, before the step",
    "forward": "the forward pass",
    "loss": "the loss",
    "gradients": "the backward pass, the gradient of",
}


def largest_layers(entries: Iterable["Entry"]) -> list["Entry"]:
    """Returns an entry for each name, in order: its layer with the largest value."""
    best: dict[str, Entry] = {}
    for entry in entries:
        if entry.name not in best or entry.largest > best[entry.name].largest:
            best[entry.name] = entry
    return list(best.values())


def distinct(entries: Iterable["Entry"]) -> Iterator["Entry"]:
    """Yields the entries without those of modules that pass on what a module inside them gave."""
    before = None
    for entry in entries:
        if entry.largest != before:
            yield entry
        before = entry.largest


def table(title: str, entries: list["Entry"], mark: "Entry | None" = None) -> Iterator[str]:
    """Yields a table of entries; `mark` gets an arrow."""
    width = max(len(entry.name) + 2 for entry in entries)
    yield title
    yield f"{'':{width}}  layer    largest{'' if mark is None else '  not finite'}"
    for entry in entries:
        name = f"{'> ' if entry is mark else '  '}{entry.name}"
        layer = "" if entry.layer is None else str(entry.layer)
        largest = "" if entry.bad == entry.values else f"{entry.largest:.4g}"
        yield f"{name:{width}}  {layer:>5}  {largest:>9}  {count(entry) if entry.bad else ''}".rstrip()


def place(entry: "Entry") -> str:
    """Returns where an entry is, in words."""
    return entry.name if entry.layer is None else f"layer {entry.layer} of {entry.name}"


def count(entry: "Entry") -> str:
    """Returns how many of an entry's values are not finite, in words."""
    return f"{entry.bad:,} of {entry.values:,} values"


def rows(result: "Replay", *, show: bool) -> Iterator[str]:
    """Yields the rows of the batch, those of the highest loss first; a few, or all with their texts."""
    shown = result.rows if show else result.rows[:LARGEST]
    few = (
        "" if len(shown) == len(result.rows) else f" ({len(shown)} of {len(result.rows)}; --show: all, with their text)"
    )
    yield f"rows by their loss, without dropout{few}; --train.skip-samples takes places"
    width = max(len("corpus"), *(len(row.corpus) for row in shown))
    yield f"{'place':>10}  {'loss':>9}  {'corpus':{width}}  {'record':>9}  epoch"
    for row in shown:
        loss = "left out" if row.skipped else "none" if row.loss is None else f"{row.loss:.4g}"
        yield f"{row.place:>10}  {loss:>9}  {row.corpus:{width}}  {row.record:>9}  {row.epoch:>5}"
        if show:
            yield from (f"    {line}" for text in row.texts for line in [*text.splitlines(), ""])


if __name__ == "__main__":
    sys.exit(command.run(lambda: main(sys.argv[1:])))
