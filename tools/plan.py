"""Plan a run before a device is paid for: python tools/plan.py PRESET --chips h100:64 [--mesh.fsdp 64] [--search]."""

import dataclasses
import itertools
import sys
from typing import TYPE_CHECKING, Annotated

import tyro

import configs
from transformer import checks, command
from transformer.planning import absent
from transformer.planning.chips import Topology, topology_of
from transformer.training.experiment import Experiment

if TYPE_CHECKING:
    from transformer.planning.step import CompiledStep
    from transformer.planning.timing import Rates


@dataclasses.dataclass(frozen=True)
class Command:
    """Say what a preset's run takes, with any of its fields overridden, on chips that are not there: memory, FLOPs,
    what devices send, time, days, money, energy, and what failures cost.

    The step is compiled where the compiler for the chips is installed. Nothing runs and no data is read. PRESET is the
    first argument; python train.py --list names the presets.
    """

    experiment: Annotated[Experiment, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff]
    """What to train."""
    chips: str = "h100:8"
    """Which chips, and how many: a100, b200, h100, h200 (in hosts of 8), a slice of v5e, v5p, v6e, as v5p:64 or
    v5p:4x4x4, or cpu:4, this machine's processor as so many devices."""
    collectives: bool = False
    """Print the collectives of a step: kind, mesh axes, how often, bytes, and where in the source they come from."""
    compile: bool = True
    """Compile the step; if not, or where no compiler is installed, all figures are the analytic model's."""
    search: bool = False
    """Propose meshes, rematerialisation and microbatches, the fastest first by the analytic model, and compile the best
    of them. The preset's own mesh, remat and accumulation are not kept."""
    best: int = 10
    """With --search: lines to print."""
    compile_best: int = 1
    """With --search: how many of the best to compile; each takes half a minute and more."""
    price: float | None = None
    """Price of a device for an hour, in any currency."""
    watts: float | None = None
    """Power of a device; None: its published thermal design power."""
    save_seconds: float | None = None
    """That the loop waits for a save; None: as long as a device's state takes to its host."""
    restart_seconds: float = 600.0
    """From a failure to the first step after it. How often there is one is --checkpoint.mtbf-hours."""

    def __post_init__(self) -> None:
        checks.above(self, 0, "price", "watts", "save_seconds", "restart_seconds")
        checks.at_least(self, 1, "best")
        checks.at_least(self, 0, "compile_best")


def main(args: list[str]) -> None:
    """Runs the command line."""
    topology = _topology(args)
    absent.prepare(topology.devices if topology is not None and topology.platform == "cpu" else 1)
    flags = parse(args)
    topology = topology_of(flags.chips)
    from transformer.planning import report
    from transformer.planning.outlook import outlook
    from transformer.planning.prediction import predict
    from transformer.planning.rates import rates_for

    rates = rates_for(topology, flags.experiment.execution.dtype)
    if flags.search:
        search(flags, topology, rates)
        return
    compiled, reason = compile_or_not(flags.experiment, topology) if flags.compile else (None, "")
    found = predict(flags.experiment, topology, rates, compiled)
    whole = outlook(
        found,
        price=flags.price,
        watts=flags.watts,
        save_seconds=flags.save_seconds,
        restart_seconds=flags.restart_seconds,
    )
    if reason:
        print(f"note       not compiled: {reason}")
    print("\n".join([*report.summary(found), *report.speed(found), *report.run(whole), *report.gaps(found)]))
    if compiled is not None:
        for line in report.advice(compiled, flags.experiment):
            print(line)
    if flags.collectives:
        print()
        print("\n".join(report.collectives(found.collectives)))


def search(flags: Command, topology: Topology, rates: "Rates") -> None:
    """Prints the best meshes, and compiles some of them."""
    from transformer.planning import report
    from transformer.planning.prediction import predict
    from transformer.planning.search import search

    found = search(flags.experiment, topology, rates)
    print("\n".join(report.candidates(found, flags.best)))
    if not flags.compile:
        return
    for candidate in found.best[: flags.compile_best]:
        compiled, reason = compile_or_not(candidate.experiment, topology)
        print()
        if compiled is None:
            print(f"not compiled: {reason}")
            return
        checked = predict(candidate.experiment, topology, rates, compiled)
        print("\n".join([report.flags(candidate), *report.summary(checked), *report.speed(checked)]))


def compile_or_not(experiment: Experiment, topology: Topology) -> tuple["CompiledStep | None", str]:
    """Returns the compiled step, or None and why there is none: what compiles it is not installed."""
    from transformer.planning.step import compile_step

    try:
        return compile_step(experiment, topology), ""
    except absent.NotInstalled as error:
        return None, str(error)


def parse(args: list[str]) -> Command:
    """Returns what the command line asks for: a preset with the overrides."""
    preset, flags = configs.split(args)
    default = Command(experiment=configs.get(preset or configs.DEFAULT))
    return command.parse(Command, flags, prog="tools/plan.py [PRESET]", default=default)


def _topology(args: list[str]) -> Topology | None:
    """Returns the chips that a command line names, before it is parsed: JAX is told of its devices first of all."""
    named = [after for before, after in itertools.pairwise(args) if before == "--chips"]
    named += [arg.partition("=")[2] for arg in args if arg.startswith("--chips=")]
    return topology_of(named[-1]) if named else None


if __name__ == "__main__":
    sys.exit(command.run(lambda: main(sys.argv[1:])))
