"""A run, a checkpoint or a folder in the Hugging Face format, ready to use."""

import dataclasses
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
from etils import epath
from jax.sharding import Mesh

from transformer import checkpoint
from transformer.errors import UserError
from transformer.inference.narrow import narrowed
from transformer.interop import convert, folder
from transformer.layers.execution import Execution
from transformer.models.architecture import Architecture
from transformer.objectives.objective import Objective
from transformer.parallel.layout import abstract_on
from transformer.parallel.mesh import MeshConfig, make_mesh
from transformer.tokenizers.kinds import AS_IMPORTED, check_vocabulary, load_tokenizer
from transformer.tokenizers.tokenizer import Tokenizer
from transformer.training import experiment as experiments


@dataclasses.dataclass(frozen=True)
class Restored:
    """A model with its weights on devices, and its tokenizer if it reads tokens."""

    architecture: Architecture
    model: nn.Module
    params: Any
    execution: Execution
    own_tokenizer: Tokenizer | None
    """The tokenizer that came with the weights; None where the model reads no tokens."""
    objective: Objective | None
    """What it was trained to do; None where it was imported."""
    checkpoint: epath.Path
    """Where the weights came from: a checkpoint, or a folder in the Hugging Face format."""
    scratch: "Scratch | None" = None
    """Holds the record of a model that was imported in memory; None: it is the checkpoint's."""

    @property
    def record(self) -> epath.Path:
        """The folder of what lies beside the weights."""
        return self.checkpoint / "record" if self.scratch is None else self.scratch.path

    @property
    def described(self) -> str:
        """What the model is, as the beginning of a message."""
        return f"{self.checkpoint} is a {self.architecture.family} model with the head {self.architecture.head}"

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer; raises UserError where the model reads no tokens."""
        if self.own_tokenizer is None:
            raise UserError(f"{self.checkpoint} has no tokenizer: its model reads no tokens")
        return self.own_tokenizer


class Scratch:
    """A folder for as long as somebody holds this object."""

    def __init__(self) -> None:
        self.path = epath.Path(tempfile.mkdtemp(prefix="imported-"))
        weakref.finalize(self, shutil.rmtree, str(self.path), ignore_errors=True)


def restore(path: epath.PathLike, execution: Execution = Execution(), mesh: Mesh | None = None) -> Restored:
    """Returns the model of a run's newest checkpoint, of the checkpoint that `path` names, or of a folder of another.

    A folder in the Hugging Face format is imported in memory: its weights are not written again.

    Args:
      path: a run, a checkpoint or a folder in the Hugging Face format.
      execution: how the model is computed; in 16 bits, its matrices are kept in 16 bits (`narrow`).
      mesh: the devices that the weights are laid out on; None: one.

    Raises:
      UserError: there is no checkpoint, it is not complete, it reads tokens and came without a tokenizer, or with one
        that has ids beyond the model's; a folder cannot be imported.
    """
    if _is_foreign(path):
        return _imported(Path(path).expanduser(), execution, make_mesh(MeshConfig(data=1)) if mesh is None else mesh)
    saved = checkpoint.find(path)
    experiment = saved / "record" / "experiment.json"
    objective = experiments.read(experiment).objective if experiment.exists() else None
    tokenizer = _tokenizer(saved, saved / "record", checkpoint.read_architecture(saved).vocab_size)
    architecture, params = checkpoint.restore_model(saved, make_mesh(MeshConfig(data=1)) if mesh is None else mesh)
    params = narrowed(architecture, params, execution)
    return Restored(architecture, architecture.build(execution), params, execution, tokenizer, objective, saved)


def _is_foreign(path: epath.PathLike) -> bool:
    """Whether a path is that of a folder in the Hugging Face format."""
    place = epath.Path(path).expanduser()
    known = any((place / name).exists() for name in ("record", "checkpoints"))
    return not known and (place / folder.CONFIG).exists()


def _imported(path: Path, execution: Execution, mesh: Mesh) -> Restored:
    """Returns the model of a folder in the Hugging Face format."""
    imported = convert.import_folder(path)
    architecture, scratch = imported.architecture, Scratch()
    for name, content in convert.record_of(imported, path)[0].items():
        file = scratch.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_on(architecture.abstract_params(), mesh))
    params = narrowed(architecture, jax.device_put(imported.params, shardings), execution)
    tokenizer = _tokenizer(epath.Path(path), scratch.path, architecture.vocab_size)
    model = architecture.build(execution)
    return Restored(architecture, model, params, execution, tokenizer, None, epath.Path(path), scratch)


def _tokenizer(source: epath.Path, record: epath.Path, vocab_size: int | None) -> Tokenizer | None:
    """Returns the tokenizer in a record; None for a model that reads no tokens."""
    if vocab_size is None:
        return None
    place = record / "tokenizer"
    if not place.exists():
        raise UserError(f"{source} has no tokenizer: import it from a folder that has its tokenizer's files")
    tokenizer = load_tokenizer(str(place))
    check_vocabulary(tokenizer, vocab_size, AS_IMPORTED, f"{source}: its tokenizer")
    return tokenizer
