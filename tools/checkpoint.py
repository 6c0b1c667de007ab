"""Checkpoints looked at, checked and made into others: tools/checkpoint.py show | diff | verify | doctor | ..."""

import dataclasses
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from transformer import command
from transformer.checkpoint_flags import (
    Average,
    Base,
    Cast,
    Chosen,
    Command,
    Diff,
    Doctor,
    DoctorOf,
    Merge,
    Prune,
    Reshard,
    Show,
    Verify,
)
from transformer.errors import UserError
from transformer.models import Architecture
from transformer.parallel.mesh import mesh_sizes

if TYPE_CHECKING:  # these take a second to import, after the flags are known to be good
    from etils import epath

    from transformer.training.experiment import Experiment

DIFFERENT = 1
"""The exit code where two checkpoints differ, one is damaged, or one does not restore; bad input is 2."""
SHOWN = 20
"""Lines of a list, at most."""
PROG = "tools/checkpoint.py"


def main(args: list[str]) -> None:
    """Runs the command line; exits with `DIFFERENT` where that is the answer."""
    if args[:1] == ["doctor"] and args[1:] and not args[1].startswith("-"):
        examine(args[1:])
        return
    flags: Any = command.parse(Command, args, prog=PROG)  # type: ignore[arg-type]
    if isinstance(flags, Doctor):
        raise UserError("doctor: name the run or the checkpoint before the flags")
    actions = {
        Show: show,
        Diff: diff,
        Verify: verify,
        Reshard: reshard,
        Cast: cast,
        Average: average,
        Merge: merge,
        Base: base,
        Prune: prune,
    }
    actions[type(flags)](flags)


def start(devices: int = 1) -> None:
    """Starts JAX on this machine's CPU, whatever else it has: what is done here is mostly reading and writing."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)
    command.start_jax()


def show(flags: Show) -> None:
    """Prints what a checkpoint is."""
    start()
    from transformer import checkpoint
    from transformer.checkpoint.describe import describe

    print("\n".join(describe(checkpoint.find(flags.checkpoint))))


def diff(flags: Diff) -> None:
    """Prints how two checkpoints differ."""
    start()
    from transformer import checkpoint
    from transformer.checkpoint.compare import compare
    from transformer.checkpoint.leaves import stored, total_bytes, trees

    a, b = (checkpoint.find(path) for path in (flags.a, flags.b))
    with _bar("diff", sum(total_bytes(stored(a, tree)) for tree in trees(a))) as read:
        comparison = compare(a, b, read)
    print(f"A  {a}\nB  {b}")
    _list(f"only in A   {path}: {leaf}" for path, leaf in comparison.only_a.items())
    _list(f"only in B   {path}: {leaf}" for path, leaf in comparison.only_b.items())
    _list(f"not alike   {path}: {ours} in A, {theirs} in B" for path, (ours, theirs) in comparison.mismatched.items())
    _list(f"{value:<11.3g} {path}" for path, value in comparison.differing.items())
    _list(f"field       {name}: {ours!r} in A, {theirs!r} in B" for name, (ours, theirs) in comparison.fields.items())
    _list(f"file        record/{name}" for name in comparison.files)
    same = len(comparison.largest) - len(comparison.differing)
    print(f"{same} of {len(comparison.largest)} arrays that both have are the same, bit for bit or NaN for NaN")
    if not comparison.equal:
        sys.exit(DIFFERENT)


def verify(flags: Verify) -> None:
    """Prints what is wrong with a checkpoint."""
    start()
    from transformer import checkpoint

    source = checkpoint.find(flags.checkpoint)
    with _bar("verify", None) as read:  # what is there to read may be damaged too
        problems = checkpoint.verify(source, read)
    if problems:
        for line in problems:
            print(line)
        sys.exit(DIFFERENT)
    print(f"{source}: whole")


def examine(args: list[str]) -> None:
    """Prints whether a checkpoint restores, and what it takes."""
    start()
    import configs
    from transformer import checkpoint
    from transformer.checkpoint import doctor
    from transformer.training import experiment as experiments

    source = checkpoint.find(args[0])

    def default(chosen: Chosen) -> DoctorOf:
        preset = chosen.preset
        model = checkpoint.read_architecture(source) if preset is None else configs.get(preset).model
        return DoctorOf(args[0], model=model)

    flags = command.parse_over(DoctorOf, args, first=Chosen, default=default, prog=f"{PROG} doctor")
    recorded, model = source / "record" / "experiment.json", flags.model
    if flags.preset is not None:
        experiment = configs.get(flags.preset)
    else:
        experiment = experiments.read(recorded) if recorded.exists() else None
    if not flags.weights:
        needs_all(source, experiment)
    mesh = doctor.abstract_mesh(flags.mesh)

    def aim(on: Any) -> dict[str, Any]:
        if experiment is None:
            return abstract_weights(source, model, on)
        return abstract_state(source, dataclasses.replace(experiment, mesh=flags.mesh), model, on)

    diagnosis = doctor.diagnose(
        source,
        model,
        mesh,
        aim,
        needed=["params"] if flags.weights else ["params", "opt_state"],
        devices_per_host=min(8, mesh.size) if flags.devices_per_host is None else flags.devices_per_host,
    )
    print("\n".join(diagnosis.lines))
    if diagnosis.problems:
        sys.exit(DIFFERENT)


def needs_all(source: "epath.Path", experiment: "Experiment | None") -> None:
    """Raises UserError where a checkpoint cannot be asked for all that a run goes on from."""
    from transformer.checkpoint.leaves import trees

    if "opt_state" not in trees(source):
        raise UserError(
            f"{source} holds weights alone, no optimizer state: a run can start from it (--init.path), not go on; "
            "--weights asks whether the weights restore"
        )
    if experiment is None:
        raise UserError(f"{source} has no experiment.json, which names the optimizer: give --preset NAME or --weights")


def reshard(flags: Reshard) -> None:
    """Writes a checkpoint for another layout."""
    # No array is cut along `sequence`, nor along `data` but for ZeRO-1.
    config = dataclasses.replace(flags.mesh, sequence=1, data=(flags.mesh.data or 1) if flags.mesh.zero1 else 1)
    # Only names for parts of this machine's memory: nothing is computed on them.
    start(math.prod(mesh_sizes(config).values()))
    from transformer import checkpoint
    from transformer.checkpoint import leaves, rewrite
    from transformer.parallel.mesh import make_mesh
    from transformer.training import experiment as experiments

    source = checkpoint.find(flags.checkpoint)
    mesh = make_mesh(config)
    architecture = checkpoint.read_architecture(source)
    if "opt_state" in leaves.trees(source):
        experiment = experiments.read(source / "record" / "experiment.json")
        abstract = abstract_state(source, dataclasses.replace(experiment, mesh=config), architecture, mesh)
    else:
        abstract = abstract_weights(source, architecture, mesh)
    with _bar("reshard", sum(leaves.total_bytes(leaves.stored(source, tree)) for tree in leaves.trees(source))) as read:
        place = rewrite.reshard(source, flags.out, abstract, read)
    print(f"checkpoint  {place}")


def cast(flags: Cast) -> None:
    """Writes weights in another dtype."""
    start()
    from transformer import checkpoint
    from transformer.checkpoint import rewrite
    from transformer.checkpoint.leaves import stored, total_bytes

    source = checkpoint.find(flags.checkpoint)
    with _bar("cast", total_bytes(stored(source, "params"))) as read:
        place = rewrite.cast(source, flags.out, flags.dtype, read)
    print(f"checkpoint  {place}")


def average(flags: Average) -> None:
    """Writes the mean of checkpoints."""
    start()
    from transformer import checkpoint
    from transformer.checkpoint import rewrite
    from transformer.checkpoint.leaves import stored, total_bytes
    from transformer.checkpoint.reading import absolute, steps

    if not flags.checkpoints:
        raise UserError("average: name a run, or two checkpoints and more")
    sources = [checkpoint.find(path) for path in flags.checkpoints]
    if len(sources) == 1:
        folder = absolute(flags.checkpoints[0]) / "checkpoints"
        there = steps(folder)
        if flags.last < 2 or len(there) < flags.last:
            raise UserError(
                f"--last {flags.last}: {folder} has {len(there)} checkpoints ({', '.join(map(str, there))}): give "
                "--last from 2 to their number; training with --checkpoint.keep has more of them kept"
            )
        sources = [folder / str(step) for step in there[-flags.last :]]
    with _bar("average", sum(total_bytes(stored(source, "params")) for source in sources)) as read:
        place = rewrite.average(sources, flags.out, read)
    print(f"checkpoint  {place}")
    for source in sources:
        print(f"  of        {source}")


def merge(flags: Merge) -> None:
    """Writes the whole model of an adapter."""
    start()
    from transformer import checkpoint
    from transformer.checkpoint import rewrite

    print(f"checkpoint  {rewrite.merge(checkpoint.find(flags.checkpoint), flags.out)}")


def base(flags: Base) -> None:
    """Records where an adapter's base lies."""
    start()
    from transformer.checkpoint import adapted

    print(f"base        {adapted.move(flags.run, flags.base)}")


def prune(flags: Prune) -> None:
    """Removes checkpoints."""
    start()
    from transformer.checkpoint import prune
    from transformer.checkpoint.reading import absolute
    from transformer.training.lock import RunLock

    with RunLock(absolute(flags.run)) as lock:  # a run that goes on keeps and removes its own
        chosen = prune.choose(flags.run, keep=flags.keep, drop=flags.drop)
        if not flags.dry_run:
            lock.take()
        for path in chosen:
            if not flags.dry_run:
                prune.remove(path)
            print(f"{'would remove' if flags.dry_run else 'removed'}  {path}")


def abstract_weights(source: "epath.Path", architecture: Architecture, mesh: Any) -> dict[str, Any]:
    """Returns the tree of ShapeDtypeStructs, with shardings on a mesh, that a checkpoint of weights alone has."""
    from transformer.checkpoint import adapted
    from transformer.parallel.layout import abstract_on

    about = adapted.of(source)
    model = architecture if about is None else adapted.adaptation_of(source, about.config)
    return {"params": abstract_on(model.abstract_params(), mesh)}


def abstract_state(
    source: "epath.Path", experiment: "Experiment", architecture: Architecture, mesh: Any
) -> dict[str, Any]:
    """Returns the trees of ShapeDtypeStructs, with shardings on a mesh, that a run of the experiment saves."""
    from transformer.checkpoint import adapted
    from transformer.distillation.config import TeacherConfig
    from transformer.training.base import with_base
    from transformer.training.program import Program
    from transformer.training.state import checkpointables

    alone = dataclasses.replace(experiment, teacher=TeacherConfig())  # which no checkpoint holds, and may be elsewhere
    if (about := adapted.of(source)) is not None:
        place = adapted.located(about, source.parent.parent)
        alone = with_base(alone, dataclasses.replace(about, path=str(place)))
    return checkpointables(Program(alone, mesh, architecture).abstract)


@contextmanager
def _bar(name: str, total: int | None) -> Iterator[Any]:
    """Gives a function that takes the bytes that were done since; the bar shows after two seconds."""
    from tqdm import tqdm

    with tqdm(total=total, desc=name, unit="B", unit_scale=True, dynamic_ncols=True, delay=2) as bar:
        yield bar.update


def _list(lines: Any) -> None:
    lines = list(lines)
    for line in lines[:SHOWN]:
        print(line)
    if len(lines) > SHOWN:
        print(f"... and {len(lines) - SHOWN} more such lines")


if __name__ == "__main__":
    sys.exit(command.run(lambda: main(sys.argv[1:])))
