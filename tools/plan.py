"""Plan a step before a device is paid for: python tools/plan.py PRESET --chips h100:64 --mesh.fsdp 64 --collectives."""

import dataclasses
import sys
from typing import Annotated

import tyro

import configs
from transformer import command
from transformer.planning import absent
from transformer.planning.chips import topology_of
from transformer.training.experiment import Experiment


@dataclasses.dataclass(frozen=True)
class Command:
    """Compile a preset's step, with any of its fields overridden, for devices that are not there.

    Prints the memory that it takes on a device and, if asked, what the devices send each other. Nothing runs and no
    data is read. PRESET is the first argument; python train.py --list names the presets.
    """

    experiment: Annotated[Experiment, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff]
    """What to train."""
    chips: str = "h100:8"
    """Which chips, and how many: a100, b200, h100, h200 (in hosts of 8) or a slice of v5e, v5p, v6e, as v5p:64 or
    v5p:4x4x4."""
    collectives: bool = False
    """Print the collectives of a step: kind, mesh axes, how often, bytes, and where in the source they come from."""


def main(args: list[str]) -> None:
    """Runs the command line."""
    absent.prepare()
    flags = parse(args)
    topology = topology_of(flags.chips)
    absent.check_installed(topology.platform)
    from transformer.planning import report
    from transformer.planning.step import compile_step

    step = compile_step(flags.experiment, topology)
    print("\n".join([*report.summary(step, flags.experiment, topology.memory), *report.advice(step, flags.experiment)]))
    if flags.collectives:
        print()
        print("\n".join(report.collectives(step.collectives)))


def parse(args: list[str]) -> Command:
    """Returns what the command line asks for: a preset with the overrides."""
    preset, flags = configs.split(args)
    default = Command(experiment=configs.get(preset or configs.DEFAULT))
    return command.parse(Command, flags, prog="tools/plan.py [PRESET]", default=default)


if __name__ == "__main__":
    sys.exit(command.run(lambda: main(sys.argv[1:])))
