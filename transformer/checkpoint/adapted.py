"""Checkpoints of adapters: what they say of their base, by which it is found again, and the model of both.

`record/adapter.json` has the adapter's config, and of the base its path and the digest of its weights: of the digests
of all its arrays (`digest.py`). Another base has another digest and is refused. A run keeps the same file beside its
checkpoints; what stands there says where the base lies now, after it was moved.
"""

import dataclasses
import hashlib
import json
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh

from transformer.adapters.adaptation import Adaptation, adaptation
from transformer.adapters.config import AdapterConfig
from transformer.checkpoint.files import to_json, write_atomically
from transformer.checkpoint.leaves import stored
from transformer.checkpoint.reading import absolute, digests, find, read_architecture, restore_params
from transformer.errors import UserError
from transformer.models.architecture import Architecture
from transformer.parallel.layout import abstract_on, param_shardings
from transformer.params import FACTORS, flatten, name_of, unflatten

NAME = "adapter.json"


@dataclasses.dataclass(frozen=True)
class Base:
    """The weights that an adapter is of, and which adapter it is."""

    path: str
    """The checkpoint's folder when it was recorded."""
    digest: str
    """Digest of its weights."""
    config: AdapterConfig

    def to_json(self) -> bytes:
        """Returns the file."""
        base = {"path": self.path, "digest": self.digest}
        return to_json({"base": base, "config": dataclasses.asdict(self.config)})


def digest_of(checkpoint: epath.Path) -> str:
    """Returns the digest of a checkpoint's weights: SHA-256 of the digests of its arrays; reads none of them.

    Raises:
      UserError: it was written without digests.
    """
    arrays = digests(checkpoint).get("params")
    if arrays is None:
        raise UserError(
            f"{checkpoint} is of an older version, which wrote no digests, by which an adapter knows its base: import "
            "it again, or save it in a run that goes on from it"
        )
    return hashlib.sha256(json.dumps(arrays, sort_keys=True).encode()).hexdigest()


def read(folder: epath.Path) -> Base | None:
    """Returns what an `adapter.json` in a folder says; None: there is none, the weights are whole."""
    path = folder / NAME
    try:
        record = json.loads(path.read_bytes())
        return Base(record["base"]["path"], record["base"]["digest"], AdapterConfig(**record["config"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a record of an adapter: {error}") from error


def of(checkpoint: epath.Path) -> Base | None:
    """Returns the base of a checkpoint; None: its weights are whole."""
    return read(checkpoint / "record")


def is_adapter(checkpoint: epath.Path) -> bool:
    """Whether a checkpoint holds an adapter, not a whole model."""
    return of(checkpoint) is not None


def base_of(source: str, config: AdapterConfig) -> Base:
    """Returns the base of a new adapter: the weights that `source` names, a run or a checkpoint.

    Raises:
      UserError: there are none, or they are an adapter themselves.
    """
    checkpoint = find(source)
    if is_adapter(checkpoint):
        raise UserError(f"{checkpoint} is an adapter, no whole model: merge it first (tools/checkpoint.py merge)")
    return Base(str(checkpoint), digest_of(checkpoint), config)


def located(base: Base, run: epath.Path) -> epath.Path:
    """Returns where the base of an adapter lies now.

    Args:
      base: as the adapter's checkpoint records it.
      run: the adapter's run folder, whose `adapter.json` may know a later place.

    Raises:
      UserError: it is not there, or other weights are.
    """
    moved = read(run)
    path = absolute(base.path if moved is None else moved.path)
    if not (path / "record").exists():
        raise UserError(
            f"{run} is an adapter of {path}, which is not there: name where its base lies now "
            f"(python tools/checkpoint.py base {run} PATH)"
        )
    check_base(base, path, run)
    return path


def check_base(base: Base, checkpoint: epath.Path, run: epath.Path) -> None:
    """Raises UserError where a checkpoint is not the base of an adapter."""
    digest = digest_of(checkpoint)
    if digest != base.digest:
        raise UserError(
            f"{checkpoint} is not the base of the adapter {run}: its weights have the digest {digest[:12]}, and the "
            f"base's have {base.digest[:12]}"
        )


def move(run: epath.PathLike, to: str) -> epath.Path:
    """Records where the base of a run's adapter lies now; returns that checkpoint.

    Raises:
      UserError: the run is no adapter, or other weights lie there.
    """
    folder = absolute(run)
    base = of(find(folder))
    if base is None:
        raise UserError(f"{folder} is no adapter: its checkpoints hold whole models")
    checkpoint = find(to)
    check_base(base, checkpoint, folder)
    write_atomically(folder / NAME, dataclasses.replace(base, path=str(checkpoint)).to_json())
    return checkpoint


def adaptation_of(checkpoint: epath.Path, config: AdapterConfig) -> Adaptation:
    """Returns the adapter that a checkpoint holds: what it trains itself is what it holds beside the factors.

    Raises:
      UserError: it does not hold the adapter's arrays.
    """
    architecture = read_architecture(checkpoint)
    held = stored(checkpoint, "params")
    whole = {path for path in held if name_of(path) not in FACTORS}
    config = dataclasses.replace(config, whole=None)  # which is decided
    found = adaptation(config, architecture, architecture.parameters.keys() - whole)
    missing = sorted(flatten(found.abstract_params()).keys() ^ held.keys())
    if missing:
        raise UserError(f"{checkpoint}: {missing[0]} does not fit the adapter that {NAME} describes")
    return found


def restore_model(checkpoint: epath.PathLike, mesh: Mesh) -> tuple[Architecture, Any]:
    """Returns a checkpoint's architecture and its weights, laid out on today's mesh; an adapter's merged into its base.

    Raises:
      UserError: it cannot be read, or is an adapter whose base is not there, or another.
    """
    checkpoint = absolute(checkpoint)
    architecture, base = read_architecture(checkpoint), of(checkpoint)
    if base is None:
        return architecture, restore_params(checkpoint, abstract_on(architecture.abstract_params(), mesh))
    source = located(base, checkpoint.parent.parent)
    adapter = adaptation_of(checkpoint, base.config)
    params = restore_params(checkpoint, abstract_on(adapter.abstract_params(), mesh))
    return architecture, merged(adapter, params, restore_base(adapter, source, mesh), mesh, donate_base=True)


def merged(adapter: Adaptation, params: Any, base: Any, mesh: Mesh, *, donate_base: bool = False) -> Any:
    """Returns the whole model of an adapter and its base, laid out on a mesh.

    Args:
      adapter: the adapter.
      params: what is trained.
      base: the base as it is held.
      mesh: that both are on.
      donate_base: whether the result may take the base's memory: it is not read again.
    """
    shardings = param_shardings(adapter.architecture.abstract_params(), mesh)
    fits = adapter.config.base_dtype == "float32"  # narrower arrays have no room for the result
    donated = (1,) if donate_base and fits else ()
    with jax.set_mesh(mesh):
        return jax.jit(adapter.merged, out_shardings=shardings, donate_argnums=donated)(params, base)


def restore_base(adapter: Adaptation, source: epath.Path, mesh: Mesh) -> dict[str, Any]:
    """Returns the base of an adapter as it is held, on a mesh; reads a few arrays at a time, as what is saved is wider.

    Args:
      adapter: which arrays, and in which dtypes they are held.
      source: the base's checkpoint.
      mesh: today's devices.
    """
    abstract = {name: flatten(abstract_on(tree, mesh)) for name, tree in adapter.abstract_base().items()}
    boxed = flatten(adapter.architecture.abstract_params())
    result: dict[str, dict[str, Any]] = {name: {} for name in abstract}
    for paths in _groups(adapter):
        arrays = restore_params(
            source, abstract_on(unflatten({path: boxed[path] for path in paths}), mesh), partial=True
        )
        shardings = {
            name: {path: leaf.sharding for path, leaf in leaves.items() if path in paths}
            for name, leaves in abstract.items()
        }
        with jax.set_mesh(mesh):
            held = jax.jit(adapter.held, out_shardings=shardings)(flatten(arrays))
        for name, leaves in held.items():
            result[name] |= leaves
    return {name: unflatten(leaves) for name, leaves in result.items()}


_GROUP = 2**29
"""Parameters of the base that are read at a time, at most; a larger array by itself."""


def _groups(adapter: Adaptation) -> list[list[str]]:
    groups: list[list[str]] = [[]]
    held = 0
    for path, leaf in adapter.frozen.items():
        if groups[-1] and held + leaf.size > _GROUP:
            groups.append([])
            held = 0
        groups[-1].append(path)
        held += leaf.size
    return groups
