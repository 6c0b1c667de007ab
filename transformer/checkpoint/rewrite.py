"""Checkpoints made of others, in run folders of their own: averaged, cast, or cut into other pieces on disk."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from transformer.checkpoint.adapted import NAME as ADAPTER
from transformer.checkpoint.adapted import is_adapter, restore_model
from transformer.checkpoint.checkpoints import save_params
from transformer.checkpoint.compare import differing_fields, record_files
from transformer.checkpoint.doctor import mismatches
from transformer.checkpoint.files import Files, check_new, to_json
from transformer.checkpoint.leaves import stored, wanted
from transformer.checkpoint.parts import read as read_parts
from transformer.checkpoint.provenance import NAME, written_by
from transformer.checkpoint.reading import absolute, check, digests, little_memory, read_architecture, root_cause
from transformer.checkpoint.seal import SEAL, seal, sealed_files
from transformer.checkpoint.stream import leaf_groups, read_leaves
from transformer.errors import UserError
from transformer.models import architecture_to_dict
from transformer.parallel.mesh import MeshConfig, make_mesh
from transformer.params import unflatten

Tick = Callable[[int], Any]
"""Gets the bytes that were read since its last call."""


def average(sources: Sequence[epath.Path], run: epath.PathLike, progress: Tick = lambda _: None) -> epath.Path:
    """Writes the mean of the weights of several checkpoints; returns where.

    Uniform, as Vaswani et al. 2017 average the last 5 of a base model and the last 20 of a big one (section 6.1). Sums
    are float32, and so is the result. In memory are the result and a group of arrays (`GROUP_BYTES`, or one
    array) of one source and of the sum; never two sources.

    Args:
      sources: checkpoints of one architecture; the record and the step are the last one's.
      run: a new folder.
      progress: of the reading.

    Raises:
      UserError: fewer than two, different architectures or tokenizers, a damaged one, or the folder cannot be written.
    """
    if len(sources) < 2:
        raise UserError(f"an average needs two checkpoints or more, and this is {len(sources)}: {sources[0]}")
    if adapters := [source for source in sources if is_adapter(source)]:
        raise UserError(
            f"{adapters[0]} is an adapter: the mean of factors is not the factors of a mean: merge each first "
            "(tools/checkpoint.py merge)"
        )
    first, *others = [architecture_to_dict(read_architecture(source)) for source in sources]
    for source, other in zip(sources[1:], others, strict=True):
        if fields := differing_fields(first, other):
            words = ", ".join(f"{name} {mine!r} and {theirs!r}" for name, (mine, theirs) in fields.items())
            raise UserError(f"{sources[0]} and {source} are of different architectures: {words}")
        if _tokenizer(source) != _tokenizer(sources[0]):
            raise UserError(f"{sources[0]} and {source} have different tokenizers: their rows mean different words")

    def mean(paths: list[str]) -> dict[str, np.ndarray]:
        total: dict[str, np.ndarray] = {}
        for source in sources:
            for path, array in read_leaves(source, "params", paths).items():
                if path in total:
                    total[path] += array.astype(np.float32, copy=False)
                else:
                    total[path] = array.astype(np.float32)
                progress(array.nbytes)
        for array in total.values():
            array /= np.float32(len(sources))
        return total

    return _write_weights(sources, run, mean, "tools/checkpoint.py average")


def merge(source: epath.Path, run: epath.PathLike) -> epath.Path:
    """Writes the whole model of an adapter and its base; returns where.

    Args:
      source: `CHECKPOINTS/STEP`, of an adapter.
      run: a new folder.

    Raises:
      UserError: it is no adapter, its base is not there or another, or the folder cannot be written.
    """
    if not is_adapter(source):
        raise UserError(f"{source} is no adapter: there is nothing to merge")
    place = _place(source, run)
    _, params = restore_model(source, make_mesh(MeshConfig(data=1)))
    record = _record([source], "tools/checkpoint.py merge")
    del record[ADAPTER]
    if "experiment.json" in record:
        experiment = json.loads(record["experiment.json"])
        experiment.pop("adapter", None)
        record["experiment.json"] = to_json(experiment)
    with _new(run):
        save_params(place, params, record)
    return place


def cast(source: epath.Path, run: epath.PathLike, dtype: str, progress: Tick = lambda _: None) -> epath.Path:
    """Writes a checkpoint's weights alone in another dtype, rounded to the nearest; returns where.

    In memory are the result and a group of arrays.

    Args:
      source: `CHECKPOINTS/STEP`.
      run: a new folder.
      dtype: such as bfloat16.
      progress: of the reading.

    Raises:
      UserError: a number is too large for the dtype, the source is damaged, or the folder cannot be written.
    """

    def narrow(paths: list[str]) -> dict[str, np.ndarray]:
        result = {}
        for path, array in read_leaves(source, "params", paths).items():
            with np.errstate(over="ignore"):  # which is said below
                result[path] = array.astype(jnp.dtype(dtype))
            if np.any(np.isfinite(array) & ~np.isfinite(result[path])):
                raise UserError(f"{source}: {path} has numbers that {dtype} cannot hold: cast to bfloat16")
            progress(array.nbytes)
        return result

    return _write_weights([source], run, narrow, f"tools/checkpoint.py cast to {dtype}")


def reshard(
    source: epath.Path, run: epath.PathLike, abstract: Mapping[str, Any], progress: Tick = lambda _: None
) -> epath.Path:
    """Writes a checkpoint again, in pieces that the devices of another mesh read whole and alone; returns where.

    All arrays are in memory once, and those that no axis of the mesh splits, which are small, once a device. Nothing is
    computed on the devices: they may be many more than this machine has cores. Of a run that can go on, the result can
    go on.

    Args:
      source: `CHECKPOINTS/STEP`.
      run: a new folder.
      abstract: tree (`params`, and `opt_state` where there is one) -> its ShapeDtypeStructs, laid out on the mesh.
      progress: of the reading.

    Raises:
      UserError: the source is damaged or is not what `abstract` says, or the folder cannot be written.
    """
    from orbax.checkpoint import v1 as ocp

    place = _place(source, run)
    check(source)
    trees = {name: _laid_out(source, name, tree, progress) for name, tree in abstract.items()}
    record = _record([source], "tools/checkpoint.py reshard")
    data = (
        {name: path.read_bytes() for name, path in sealed_files(source / "data").items()}
        if "opt_state" in trees
        else {}
    )
    # The arrays are the source's, and so are the digests of their values.
    found = digests(source)
    values = {"digests.json": to_json(found)} if found else {}
    context = little_memory(trees)
    context.array.saving.use_replica_parallel = False  # a device's part is one piece, not one for each that has a copy
    with _new(run) as folder:
        try:
            place.parent.mkdir(parents=True)
            with context:
                files = {"record": Files(record | values)} | ({"data": Files(data)} if data else {})
                ocp.save_checkpointables(place, {**trees, **files})
            seal(place)
            if "experiment.json" in record and "opt_state" in trees:
                _make_run(folder, source, record)
        except Exception as error:
            raise UserError(f"{place}: the checkpoint could not be written: {root_cause(error)}") from error
    return place


def fork(source: epath.Path, run: epath.PathLike, record: Mapping[str, bytes]) -> epath.Path:
    """Makes a new run of another experiment, that goes on from a checkpoint; returns the copy of the checkpoint.

    Args:
      source: `CHECKPOINTS/STEP`.
      run: its folder; of one that was forked before, nothing changes.
      record: `experiment.json` and `architecture.json`. The checkpoint keeps those that it was written with.

    Raises:
      UserError: the source is damaged, the folder holds something else, or it cannot be written.
    """
    folder = absolute(run)
    place = folder / "checkpoints" / source.name
    if (folder / "experiment.json").exists():
        return place
    place = _place(source, run)
    if not source.exists():
        raise UserError(f"{source}: no such checkpoint to go on from")
    check(source)
    with _new(run):
        for name, path in [*sealed_files(source).items(), (SEAL, source / SEAL)]:
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            path.copy(place / name)
        _make_run(folder, source, {**record_files(source), **record})
    return place


def _laid_out(source: epath.Path, name: str, abstract: Any, progress: Tick) -> Any:
    """Returns one of a checkpoint's trees, laid out as the ShapeDtypeStructs say."""
    have, need = stored(source, name), wanted(abstract)
    if wrong := mismatches(have, need):
        raise UserError(f"{source}: {name} is not what its record says: {' '.join(next(iter(wrong.values())).split())}")
    shardings = dict(zip(need, (leaf.sharding for leaf in jax.tree.leaves(abstract)), strict=True))
    leaves = {}
    for paths in leaf_groups(have):
        for path, array in read_leaves(source, name, paths).items():
            leaves[path] = jax.device_put(array, shardings[path])
            progress(array.nbytes)
    return jax.tree.unflatten(jax.tree.structure(abstract), [leaves[path] for path in need])


def _write_weights(
    sources: Sequence[epath.Path], run: epath.PathLike, make: Callable[[list[str]], dict[str, np.ndarray]], program: str
) -> epath.Path:
    """Writes the weights that `make` makes of some paths, group by group, with the record of the last source."""
    place = _place(sources[-1], run)
    for source in sources:
        check(source)
    host = jax.local_devices(backend="cpu")[0]
    leaves: dict[str, jax.Array] = {}
    for paths in leaf_groups(stored(sources[-1], "params")):
        leaves |= {path: jax.device_put(array, host) for path, array in make(paths).items()}
    with _new(run):
        save_params(place, unflatten(leaves), _record(sources, program))
    return place


def _place(source: epath.Path, run: epath.PathLike) -> epath.Path:
    """Returns where a checkpoint made of `source` goes; raises UserError where the run folder is not new."""
    folder = absolute(run)
    check_new(folder)
    return folder / "checkpoints" / source.name


@contextlib.contextmanager
def _new(run: epath.PathLike) -> Iterator[epath.Path]:
    """Gives a new run folder, in full; nothing half-written stays there."""
    folder = absolute(run)
    try:
        yield folder
    except BaseException:
        if folder.exists():
            folder.rmtree()
        raise


def _tokenizer(source: epath.Path) -> dict[str, bytes]:
    return {name: content for name, content in record_files(source).items() if name.startswith("tokenizer/")}


def _record(sources: Sequence[epath.Path], program: str) -> dict[str, bytes]:
    return record_files(sources[-1]) | {NAME: written_by(program, sources)}


def _make_run(folder: epath.Path, source: epath.Path, record: Mapping[str, bytes]) -> None:
    """Puts beside a checkpoint what makes a folder a run that goes on.

    experiment.json comes last: a folder without is none, so that one cut short is refused and not begun anew.
    """
    metrics = source.parent.parent / "metrics.jsonl"
    files = {"metrics.jsonl": read_parts(metrics)} if metrics.exists() else {}
    files |= {name: content for name, content in record.items() if name.startswith("tokenizer/")}
    files |= {name: record[name] for name in ("architecture.json", "experiment.json")}
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
