"""What `tools/checkpoint.py` is asked."""

import dataclasses
from typing import Annotated, Literal

import tyro

from transformer.models import Architecture
from transformer.parallel.mesh import MeshConfig


@dataclasses.dataclass(frozen=True)
class Show:
    """Say what a checkpoint is: architecture, step, parameters by module, size, experiment, what wrote it."""

    checkpoint: tyro.conf.Positional[str]
    """A run folder (its newest checkpoint), or one of its checkpoints (RUN/checkpoints/STEP); so below."""


@dataclasses.dataclass(frozen=True)
class Diff:
    """Compare two checkpoints: arrays, each one's largest difference, configs. Exit code 0: equal; 1: different."""

    a: tyro.conf.Positional[str]
    """A run or a checkpoint."""
    b: tyro.conf.Positional[str]
    """Another."""


@dataclasses.dataclass(frozen=True)
class Verify:
    """Read every file and every array and compare them with what was written. Exit code 1: damaged, a line each."""

    checkpoint: tyro.conf.Positional[str]
    """A run or a checkpoint."""


@dataclasses.dataclass(frozen=True)
class Doctor:
    """Say whether a checkpoint restores into an architecture on a mesh of any size, and what it takes there.

    Reads no array and makes none. The checkpoint comes first. After it, `--model.FIELD VALUE` changes its architecture
    (doctor RUN --help names the fields). Exit code 1: it does not restore, a line a problem.
    """

    checkpoint: tyro.conf.Positional[str]
    """A run or a checkpoint."""
    mesh: MeshConfig = MeshConfig()
    """The mesh, as train.py takes it; --mesh.data is 1 where it is not given."""
    devices_per_host: int | None = None
    """Devices of each host, consecutive in the mesh; None: 8, or all where the mesh has fewer."""
    preset: str | None = None
    """Restore into the model and the optimizer of this preset; None: of the checkpoint itself."""
    weights: bool = False
    """Ask for the weights alone, as generating, evaluating and --init.path do, and not for all that a run goes on
    from."""


@dataclasses.dataclass(frozen=True)
class DoctorOf(Doctor):
    """Say whether a checkpoint restores into an architecture on a mesh of any size, and what it takes there."""

    model: Architecture = dataclasses.field(kw_only=True)
    """The architecture, by default the checkpoint's or the preset's."""


@dataclasses.dataclass(frozen=True)
class Chosen:
    """The one flag of doctor that is needed before all others: it says which fields the architecture has."""

    preset: str | None = None


@dataclasses.dataclass(frozen=True)
class Reshard:
    """Write a checkpoint again, cut into other pieces on disk.

    Any checkpoint restores onto any mesh without this. But an array is read in the pieces that it was written in, one
    for each device that wrote a part of it: a host that needs a part of a piece reads all of it. In the result each
    device of the mesh finds its parts in pieces of its own, so that hosts read only their own bytes (doctor tells how
    much a host reads). It takes memory for all arrays once. A run that could go on can go on from the result.
    """

    checkpoint: tyro.conf.Positional[str]
    """A run or a checkpoint."""
    out: str
    """A new run folder."""
    mesh: MeshConfig
    """The mesh to cut for; --mesh.sequence splits no array, and --mesh.data none but with --mesh.zero1 True."""


@dataclasses.dataclass(frozen=True)
class Cast:
    """Write the weights alone in fewer bits, for serving."""

    checkpoint: tyro.conf.Positional[str]
    """A run or a checkpoint."""
    out: str
    """A new run folder."""
    dtype: Literal["bfloat16", "float16"] = "bfloat16"
    """Dtype of the weights on disk, rounded to the nearest."""


@dataclasses.dataclass(frozen=True)
class Average:
    """Write the mean of the weights of several checkpoints (Vaswani et al. 2017, section 6.1); sums are float32."""

    checkpoints: tyro.conf.Positional[tuple[str, ...]]
    """One run, of which the last checkpoints are taken; or two checkpoints and more, of one architecture."""
    out: str
    """A new run folder. Its record (experiment, tokenizer) and its step are those of the last checkpoint."""
    last: int = 5
    """Checkpoints of the one run (--checkpoint.keep, in training, has them kept)."""


@dataclasses.dataclass(frozen=True)
class Merge:
    """Write the whole model of an adapter: its factors added to its base's kernels."""

    checkpoint: tyro.conf.Positional[str]
    """A run that trained an adapter, or one of its checkpoints."""
    out: tyro.conf.Positional[str]
    """A new run folder."""


@dataclasses.dataclass(frozen=True)
class Base:
    """Say where the base of a run's adapter lies now, after it was moved; other weights are refused."""

    run: tyro.conf.Positional[str]
    """A run that trained an adapter."""
    base: tyro.conf.Positional[str]
    """The run or the checkpoint of its base."""


@dataclasses.dataclass(frozen=True)
class Prune:
    """Remove checkpoints of a run. The newest goes only if --drop names it."""

    run: tyro.conf.Positional[str]
    """A run folder."""
    keep: tuple[int, ...] = ()
    """Remove all but these steps and the newest."""
    drop: tuple[int, ...] = ()
    """Remove these steps."""
    dry_run: bool = False
    """Only say what would be removed."""


Command = (
    Annotated[Show, tyro.conf.subcommand("show")]
    | Annotated[Diff, tyro.conf.subcommand("diff")]
    | Annotated[Verify, tyro.conf.subcommand("verify")]
    | Annotated[Doctor, tyro.conf.subcommand("doctor")]
    | Annotated[Reshard, tyro.conf.subcommand("reshard")]
    | Annotated[Cast, tyro.conf.subcommand("cast")]
    | Annotated[Average, tyro.conf.subcommand("average")]
    | Annotated[Merge, tyro.conf.subcommand("merge")]
    | Annotated[Base, tyro.conf.subcommand("base")]
    | Annotated[Prune, tyro.conf.subcommand("prune")]
)
