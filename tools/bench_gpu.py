"""Measure training steps on this GPU, beside PyTorch's and the planner's: python tools/bench_gpu.py [--json FILE].

Every case is a process of its own, so that each has the whole card, and one that does not fit ends no other.
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import configs
from transformer import checks, command
from transformer.errors import UserError
from transformer.parallel.mesh import MeshConfig
from transformer.paths import write_file
from transformer.training.experiment import Experiment
from transformer.training.optimizer import OptimizerConfig

if TYPE_CHECKING:
    import numpy as np

    from transformer.planning.prediction import Prediction

ROOT = Path(__file__).resolve().parent.parent
MODELS = ("gpt2-small", "llama-1b", "llama-8b-4-layers")
GIB = 2**30
_DOCUMENT = 512
"""Mean length of the documents that rows are packed of, in tokens."""
_PARITY_STEPS = 8
_HEADER = ("case", "tokens/s", "MFU", "ms a step", "planned", "GiB", "planned", "")
_WIDTHS = (46, 10, 7, 10, 9, 9, 9, 0)


@dataclasses.dataclass(frozen=True)
class Command:
    """Measure GPT-2 small, a LLaMA of a billion weights and LLaMA 3 8B with four layers, in bfloat16 on one GPU: rows
    of separate and of concatenated documents, policies of rematerialisation, 8-bit products; each beside the planner's
    prediction, and PyTorch's compiled step with flash attention, where PyTorch with CUDA is installed; then how far
    losses in 16 and 8 bits are from those in float32.

    Nothing else should be running on the card.
    """

    only: str = ""
    """Measure cases alone whose name has this in it, such as gpt2-small or pytorch."""
    json: Path | None = None
    """Write a list of objects, one a case, to this file."""
    budget: float = 570.0
    """Seconds for all cases; those for which none are left are rows that say so."""
    most: float = 90.0
    """Seconds for one case: loading, compiling and measuring."""
    seconds: float = 4.0
    """Seconds of a case, to measure in."""
    tiny: bool = False
    """Tiny models, on whatever device there is: to see that everything works."""
    case: str | None = None
    """Measure this case in this process, and print an object: what the command itself starts."""

    def __post_init__(self) -> None:
        checks.above(self, 0, "budget", "most", "seconds")


class Case(NamedTuple):
    """What is measured."""

    model: str
    packing: str = "separate"
    remat: str = "none"
    attention: str = "auto"
    quantization: str = "none"
    kind: str = "step"
    """`step`; `pytorch`: theirs; or `parity`: losses of some updates in several dtypes."""

    @property
    def name(self) -> str:
        """What people call it: the model, and what differs from the usual."""
        usual = Case(self.model)
        differing = [value for value, common in zip(self[1:], usual[1:], strict=True) if value != common]
        return " ".join([self.model, *(differing if self.kind != "step" or differing else ["separate none"])])


def cases() -> list[Case]:
    """Returns what is measured, what tells the most first."""
    small, billion, large = MODELS
    return [
        Case(small),
        Case(small, "concatenated"),
        Case(small, kind="pytorch"),
        Case(billion, "concatenated", "attention"),
        Case(billion, kind="pytorch"),
        Case(billion, "separate", "attention"),
        Case(large, "concatenated", "attention"),
        Case(large, kind="pytorch"),
        Case(large, "concatenated", "attention", quantization="fp8"),
        Case(small, kind="parity"),
        Case(billion, "separate", "attention", attention="packed"),
        Case(billion, "concatenated", "full"),
        Case(billion, "concatenated", "projections+attention"),
        Case(billion, "concatenated", "attention-offloaded"),
        Case(billion, "concatenated", "none"),
        Case(large, "separate", "attention"),
        Case(large, "concatenated", "full"),
    ]


def experiment_of(case: Case, *, tiny: bool) -> Experiment:
    """Returns the step of a case: AdamW, one device, no dropout."""
    experiment = configs.get("gpt2-small" if case.model == MODELS[0] else "llama3-8b")
    model: Any = experiment.model
    if case.model == MODELS[0]:
        model, rows, length = dataclasses.replace(model, dropout=0.0), 16, 1024
        short = {"num_heads": 4}
    else:
        sizes = {"num_layers": 4}
        if case.model == MODELS[1]:
            sizes = {"width": 2048, "num_layers": 16, "mlp_width": 8192, "head_width": 64}
        model, rows, length = dataclasses.replace(model, **sizes), 2, 4096
        short = {"num_heads": 4, "num_kv_heads": 2, "head_width": 16, "mlp_width": 128}
    if tiny:
        model = dataclasses.replace(model, vocab_size=256, width=64, num_layers=2, context_length=64, **short)
        rows, length = 2, 64
    return dataclasses.replace(
        experiment,
        name=case.model,
        model=model,
        objective=dataclasses.replace(experiment.objective, packing=case.packing),
        optimizer=OptimizerConfig(learning_rate=3e-4, schedule="constant", warmup_steps=0),
        train=dataclasses.replace(experiment.train, batch_size=rows, seq_len=length, accumulation=1),
        mesh=MeshConfig(data=1),
        execution=dataclasses.replace(
            experiment.execution,
            dtype="bfloat16",
            remat=case.remat,
            attention=case.attention,
            quantization=case.quantization,
        ),
    )


def main(args: list[str]) -> None:
    """Runs the command line."""
    flags = command.parse(Command, args, prog="tools/bench_gpu.py")
    if flags.case is not None:
        case = next(each for each in cases() if each.name == flags.case)
        print(json.dumps(measured(case, flags)))
        return
    chosen = [case for case in cases() if flags.only in case.name]
    if not chosen:
        names = ", ".join(each.name for each in cases())
        raise UserError(f"--only {flags.only}: no case has that in its name: {names}")
    print(f"{len(chosen)} cases, at most {flags.budget:.0f} s", file=sys.stderr, flush=True)
    rows = []
    for row in rows_of(chosen, flags):
        rows.append(row)
        if flags.json is not None:  # after each case: an interrupt loses none
            write_file(flags.json, json.dumps(rows, indent=1) + "\n")
    print("\n".join(table(rows)))


def rows_of(chosen: list[Case], flags: Command) -> Iterator[dict[str, Any]]:
    """Yields what each case came to, and says so as it goes."""
    began = time.perf_counter()
    for number, case in enumerate(chosen, 1):
        left = flags.budget - (time.perf_counter() - began)
        row = {"case": case.name} | (in_a_process(case, flags, left) if left > 0 else {"note": "no time was left"})
        spent = time.perf_counter() - began
        shown = f"{row['tokens_per_second']:,.0f} tokens/s" if "tokens_per_second" in row else row["note"]
        print(f"[{number}/{len(chosen)}, {spent:.0f} s] {case.name}: {shown}", file=sys.stderr, flush=True)
        yield row


def in_a_process(case: Case, flags: Command, left: float) -> dict[str, Any]:
    """Returns what a case came to in a process of its own; where it came to nothing, `note` says why."""
    limit = min(left, flags.most)
    options = ["--case", case.name, "--seconds", str(flags.seconds), *(["--tiny"] if flags.tiny else [])]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tools.bench_gpu", *options],
            cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=limit, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"note": f"no result in {limit:.0f} s"}
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    if "RESOURCE_EXHAUSTED" in done.stderr or "OutOfMemoryError" in done.stderr:
        return {"note": "does not fit"}
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return {"note": f"failed: {lines[-1].strip() if lines else f'exit code {done.returncode}'}"[:200]}


def measured(case: Case, flags: Command) -> dict[str, Any]:
    """Returns what a case comes to, in this process."""
    experiment = experiment_of(case, tiny=flags.tiny)
    if case.kind == "pytorch":
        return of_pytorch(experiment, flags)
    command.start_jax()
    import jax

    if jax.devices()[0].platform != "gpu" and not flags.tiny:
        raise UserError(f"these devices are of the platform {jax.devices()[0].platform}, no GPUs: give --tiny")
    return parity(experiment) if case.kind == "parity" else of_step(experiment, flags)


def of_step(experiment: Experiment, flags: Command) -> dict[str, Any]:
    """Returns the speed and memory of our step, beside what was planned."""
    import jax

    from transformer.planning.step import Built, described
    from transformer.training.program import Program
    from transformer.training.session import mesh_for

    mesh = mesh_for(experiment, jax.devices()[:1])
    with jax.set_mesh(mesh):
        program = Program(experiment, mesh)
        batch = batch_of(experiment)
        traced = program.trace(batch)
        executable = traced.lower().compile()
        state, (frozen, numbers) = program.init(), (program.frozen, program.hyperparameters)

        def step() -> Any:
            nonlocal state
            state, metrics = executable(state, batch, frozen, numbers)
            return metrics["loss"]

        seconds = clocked(step, flags.seconds, wait=jax.block_until_ready)
    device = mesh.devices.flat[0]
    compiled = described(Built(mesh, program, traced, executable, device.platform)).memory
    used = (device.memory_stats() or {}).get("peak_bytes_in_use")
    row = _speed(experiment, seconds) | {"compiled_bytes": compiled.peak, "device": device.device_kind}
    row |= {} if used is None else {"bytes": used}
    planned = planned_for(experiment, device)
    if planned is None:
        return row
    peak = planned.mfu and planned.mfu * planned.time.total / seconds
    return row | {"planned_seconds": planned.time.total, "planned_bytes": planned.memory.peak, "mfu": peak}


def clocked(step: Any, length: float, *, wait: Any) -> float:
    """Returns the seconds of a step, the median of turns of some steps, for about so many seconds."""
    for _ in range(3):
        wait(step())
    began = time.perf_counter()
    wait(step())
    steps = max(1, round(length / 5 / (time.perf_counter() - began)))
    turns = []
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(steps):
            last = step()
        wait(last)
        turns.append((time.perf_counter() - began) / steps)
    return statistics.median(turns)


def planned_for(experiment: Experiment, device: Any) -> "Prediction | None":
    """Returns what the planner says of the step on such a device; None: it knows no such one."""
    from transformer.chips import chip_name
    from transformer.planning.chips import CHIPS, topology_of
    from transformer.planning.prediction import predict
    from transformer.planning.rates import rates_for

    chip = "cpu" if device.platform == "cpu" else chip_name(device.device_kind)
    if chip not in CHIPS:
        return None
    topology = topology_of(f"{chip}:1")
    return predict(experiment, topology, rates_for(topology, "bfloat16"))


def batch_of(experiment: Experiment, seed: int = 0) -> Any:
    """Returns a batch of random tokens, whose rows are packed of documents of random lengths, on the device."""
    import jax

    example = experiment.objective.examples(records(experiment, seed), [], None)
    return jax.tree.map(jax.device_put, example)


def records(experiment: Experiment, seed: int) -> "dict[str, np.ndarray]":
    """Returns rows of `tokens`, `segment_ids` and `positions`, int32 [B, T + 1], as windows of a corpus are."""
    import numpy as np

    train, rng = experiment.train, np.random.default_rng(seed)
    shape = train.batch_size, train.seq_len + 1
    begins = rng.random(shape) < 1 / _DOCUMENT
    begins[:, 0] = True
    places = np.arange(shape[1], dtype=np.int32)
    return {
        "tokens": rng.integers(0, experiment.model.vocab_size or 1, shape).astype(np.int32),
        "segment_ids": np.cumsum(begins, axis=1, dtype=np.int32),
        "positions": places - np.maximum.accumulate(np.where(begins, places, 0), axis=1).astype(np.int32),
    }


def parity(experiment: Experiment) -> dict[str, Any]:
    """Returns how far losses in bfloat16, and in 8 bits, are from those in float32, over the same updates."""
    import jax

    from transformer.training.program import Program
    from transformer.training.session import mesh_for

    losses: dict[str, list[float]] = {}
    for name, dtype, quantization in (
        ("float32", "float32", "none"), ("bfloat16", "bfloat16", "none"), ("fp8", "bfloat16", "fp8"),
    ):  # fmt: skip
        execution = dataclasses.replace(experiment.execution, dtype=dtype, quantization=quantization, remat="full")
        same = dataclasses.replace(experiment, execution=execution)
        mesh = mesh_for(same, jax.devices()[:1])
        with jax.set_mesh(mesh):
            program, losses[name] = Program(same, mesh), []
            state, batch = program.init(), batch_of(same)
            for _ in range(_PARITY_STEPS):
                state, metrics = program.step(state, batch)
                losses[name].append(float(metrics["loss"]))
            del state, program
    off = {
        name: max(abs(a / b - 1) for a, b in zip(values, losses["float32"], strict=True))
        for name, values in losses.items()
    }
    note = f"losses of {_PARITY_STEPS} updates off float32's by at most {off['bfloat16']:.1e} in bfloat16, "
    return {"losses": losses, "note": f"{note}{off['fp8']:.1e} in fp8"}


def of_pytorch(experiment: Experiment, flags: Command) -> dict[str, Any]:
    """Returns the speed and memory of Transformers' model of the same sizes in PyTorch, compiled, with flash attention
    over rows as one text (`scaled_dot_product_attention`); on a CPU it is not compiled."""
    try:
        import torch
        import transformers  # noqa: F401
    except ImportError as error:
        return {"note": f"{error.name} is not installed"}
    if not torch.cuda.is_available() and not flags.tiny:
        return {"note": "PyTorch has no CUDA here"}
    from tools.bench import TorchStep

    theirs = TorchStep(experiment, compiled=torch.cuda.is_available())
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    row = _speed(experiment, clocked(theirs.step, flags.seconds, wait=lambda _: wait()))
    return row | ({"bytes": torch.cuda.max_memory_allocated()} if torch.cuda.is_available() else {})


def _speed(experiment: Experiment, seconds: float) -> dict[str, Any]:
    train = experiment.train
    return {"seconds": seconds, "tokens_per_second": train.batch_size * train.seq_len / seconds}


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yields a table of what cases came to."""
    yield _line(_HEADER)
    for row in rows:
        used = "bytes" if "bytes" in row else "compiled_bytes"
        figures = (
            ("tokens_per_second", 1, ",.0f"),
            ("mfu", 1, ".1%"),
            ("seconds", 1e3, ".1f"),
            ("planned_seconds", 1e3, ".1f"),
            (used, 1 / GIB, ".3g"),
            ("planned_bytes", 1 / GIB, ".3g"),
        )
        yield _line((row["case"], *(_number(row, *figure) for figure in figures), f"  {row.get('note', '')}"))


def _number(row: dict[str, Any], name: str, factor: float, form: str) -> str:
    return f"{row[name] * factor:{form}}" if row.get(name) is not None else "-"


def _line(cells: tuple[str, ...]) -> str:
    first, *others = zip(cells, _WIDTHS, strict=True)
    return (f"{first[0]:<{first[1]}}" + "".join(f"{cell:>{width}}" for cell, width in others)).rstrip()


if __name__ == "__main__":
    sys.exit(command.run(lambda: main(sys.argv[1:])))
