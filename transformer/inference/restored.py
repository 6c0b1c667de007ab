"""A run or a checkpoint, ready to use."""

import dataclasses
from typing import Any

import flax.linen as nn
from etils import epath
from jax.sharding import Mesh

from transformer import checkpoint
from transformer.errors import UserError
from transformer.layers.execution import Execution
from transformer.models.architecture import Architecture
from transformer.objectives.objective import Objective
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
    """Where the weights came from."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer; raises UserError where the model reads no tokens."""
        if self.own_tokenizer is None:
            raise UserError(f"{self.checkpoint} has no tokenizer: its model reads no tokens")
        return self.own_tokenizer


def restore(path: epath.PathLike, execution: Execution = Execution(), mesh: Mesh | None = None) -> Restored:
    """Returns the model of a run's newest checkpoint, or of the checkpoint that `path` names.

    Args:
      path: a run or a checkpoint.
      execution: how the model is computed.
      mesh: the devices that the weights are laid out on; None: one.

    Raises:
      UserError: there is no checkpoint, it is not complete, it reads tokens and came without a tokenizer, or with one
        that has ids beyond the model's.
    """
    saved = checkpoint.find(path)
    experiment = saved / "record" / "experiment.json"
    objective = experiments.read(experiment).objective if experiment.exists() else None
    tokenizer = _tokenizer(saved)
    architecture, params = checkpoint.restore_model(saved, make_mesh(MeshConfig(data=1)) if mesh is None else mesh)
    return Restored(architecture, architecture.build(execution), params, execution, tokenizer, objective, saved)


def _tokenizer(saved: epath.Path) -> Tokenizer | None:
    """Returns a checkpoint's tokenizer; None for a model that reads no tokens."""
    vocab_size = checkpoint.read_architecture(saved).vocab_size
    if vocab_size is None:
        return None
    folder = saved / "record" / "tokenizer"
    if not folder.exists():
        raise UserError(f"{saved} has no tokenizer: import it from a folder that has its tokenizer's files")
    tokenizer = load_tokenizer(str(folder))
    check_vocabulary(tokenizer, vocab_size, AS_IMPORTED, f"{saved}: its tokenizer")
    return tokenizer
