"""A run or a checkpoint, ready to use."""

import dataclasses
from typing import Any

import flax.linen as nn
from etils import epath

from transformer import checkpoint
from transformer.errors import UserError
from transformer.layers.execution import Execution
from transformer.models.architecture import Architecture
from transformer.objectives.objective import Objective
from transformer.sharding import MeshConfig, make_mesh
from transformer.tokenizers.kinds import AS_IMPORTED, check_vocabulary, load_tokenizer
from transformer.tokenizers.tokenizer import Tokenizer
from transformer.training import experiment as experiments


@dataclasses.dataclass(frozen=True)
class Restored:
    """A model with its tokenizer, on one device."""

    architecture: Architecture
    model: nn.Module
    params: Any
    execution: Execution
    tokenizer: Tokenizer
    objective: Objective | None
    """What it was trained to do; None where it was imported."""
    checkpoint: epath.Path
    """Where the weights came from."""


def restore(path: epath.PathLike, execution: Execution = Execution()) -> Restored:
    """Returns the model of a run's newest checkpoint, or of the checkpoint that `path` names.

    Raises:
      UserError: there is no checkpoint, it is not complete, it came without a tokenizer, or with one that has ids
        beyond the model's.
    """
    found = checkpoint.find(path)
    record = found / "record"
    if not (record / "tokenizer").exists():
        raise UserError(f"{found} has no tokenizer: import it from a folder that has its tokenizer's files")
    experiment = record / "experiment.json"
    objective = experiments.read(experiment).objective if experiment.exists() else None
    tokenizer = load_tokenizer(str(record / "tokenizer"))
    rows = checkpoint.read_architecture(found).vocab_size
    check_vocabulary(tokenizer, rows, AS_IMPORTED, f"{found}: its tokenizer")
    architecture, params = checkpoint.restore_model(found, make_mesh(MeshConfig(data=1)))
    return Restored(architecture, architecture.build(execution), params, execution, tokenizer, objective, found)
