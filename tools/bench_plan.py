"""Measure how far the planner is off on this machine: python tools/bench_plan.py [--presets gpt-python] [--json]."""

import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Any

import configs
from transformer import checks, command
from transformer.parallel.mesh import MeshConfig, described
from transformer.planning import absent
from transformer.planning.chips import Topology, topology_of
from transformer.training.experiment import Experiment

if TYPE_CHECKING:
    from transformer.planning.timing import Rates

PRESETS = ("gpt-python", "llama-python", "bert-python", "roberta-python", "t5-python", "vit-digits")


@dataclasses.dataclass(frozen=True)
class Command:
    """Compare memory, FLOPs and time of a step, as planned and as measured, on fake devices of this processor.

    Memory is what the process had at the most; time is that of all cores, so that other work on the machine counts for
    little.
    """

    presets: tuple[str, ...] = PRESETS
    """Small ones, with AdamW and with layers in a loop."""
    devices: int = 4
    """Fake devices, an even number; each mesh has all of them."""
    json: bool = False
    """Print a JSON object a step instead of a table."""

    def __post_init__(self) -> None:
        even = self.devices >= 2 and self.devices % 2 == 0
        checks.rule(self, "devices", even, "give an even number")


def main(args: list[str]) -> None:
    """Runs the command line."""
    flags = command.parse(Command, args, prog="tools/bench_plan.py")
    absent.prepare(flags.devices)
    from transformer.planning.measuring import give_memory_back

    give_memory_back()
    from transformer.planning.rates import measured_rates

    topology = topology_of(f"cpu:{flags.devices}")
    rates = measured_rates(flags.devices)  # once, for all steps
    if not flags.json:
        print(f"{'':40}{'memory, MB':^39}{'GFLOP':^27}{'processor seconds':^22}")
        print(f"{'preset':16}{'mesh':24}" + "".join(f"{name:>{width}}" for name, width in HEADER))
    for name in flags.presets:
        for mesh in meshes(flags.devices):
            found = row(small(name, mesh), topology, rates)
            print(json.dumps(found) if flags.json else line(found), flush=True)


HEADER = (
    *(("measured", 9), ("compiled", 9), ("off", 6), ("analytic", 9), ("off", 6)),
    *(("measured", 10), ("planned", 10), ("off", 7), ("measured", 9), ("planned", 8), ("off", 6)),
)


def small(name: str, mesh: MeshConfig) -> Experiment:
    """Returns a preset as it is measured."""
    experiment = configs.get(name)
    return dataclasses.replace(
        experiment,
        mesh=mesh,
        optimizer=dataclasses.replace(experiment.optimizer, name="adamw"),
        execution=dataclasses.replace(experiment.execution, unroll=1),
    )


def row(experiment: Experiment, topology: Topology, rates: "Rates") -> dict[str, Any]:
    """Returns what was planned and what was measured of a step, all devices together."""
    from transformer.planning.batch import abstract_batch
    from transformer.planning.measuring import measure
    from transformer.planning.prediction import predict
    from transformer.planning.rates import cores
    from transformer.planning.step import build
    from transformer.planning.step import described as read

    built = build(experiment, topology)
    measured = measure(built, abstract_batch(experiment, built.mesh))
    planned = predict(experiment, topology, rates, read(built))
    return {
        "preset": experiment.name,
        "mesh": described(planned.division.sizes),
        "memory": measured.memory,
        "compiled_memory": planned.peak * topology.devices,
        "analytic_memory": planned.memory.peak * topology.devices,
        "flops": measured.flops,
        "planned_flops": planned.arithmetic.computed,
        "seconds": measured.seconds,
        "planned_seconds": planned.time.total * cores(),
    }


def line(found: dict[str, Any]) -> str:
    """Returns a row of the table."""

    def off(planned: str, measured: str) -> float:
        return found[planned] / found[measured] - 1

    return (
        f"{found['preset']:16}{found['mesh']:24}{found['memory'] / 1e6:9.1f}{found['compiled_memory'] / 1e6:9.1f}"
        f"{off('compiled_memory', 'memory'):+6.0%}{found['analytic_memory'] / 1e6:9.1f}"
        f"{off('analytic_memory', 'memory'):+6.0%}{found['flops'] / 1e9:10.4f}{found['planned_flops'] / 1e9:10.4f}"
        f"{off('planned_flops', 'flops'):+7.2%}{found['seconds']:9.3f}{found['planned_seconds']:8.3f}"
        f"{off('planned_seconds', 'seconds'):+6.0%}"
    )


def meshes(devices: int) -> list[MeshConfig]:
    """Returns the meshes that are measured."""
    half = devices // 2
    return [
        MeshConfig(data=devices),
        MeshConfig(data=1, fsdp=devices),
        MeshConfig(data=half, tensor=2),
        MeshConfig(data=1, fsdp=half, tensor=2),
    ]


if __name__ == "__main__":
    sys.exit(command.run(lambda: main(sys.argv[1:])))
