"""A run that starts from another run's weights, or from imported ones, and may put another head on them."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
from jax.sharding import Mesh

from transformer import checkpoint
from transformer.data.tokenizer import Tokenizer
from transformer.data.tokenizer_kinds import load_tokenizer
from transformer.errors import UserError
from transformer.models import Architecture
from transformer.models.graft import graft


def check(source: str, architecture: Architecture) -> None:
    """Raises `UserError` where a run of `architecture` cannot start from the checkpoint `source`; reads no weights."""
    theirs, ours = (
        nn.meta.unbox(one.abstract_params())
        for one in (checkpoint.read_architecture(checkpoint.find(source)), architecture)
    )
    try:
        graft(architecture, theirs, ours)
    except UserError as error:
        raise UserError(f"--init-from {source}: {error}") from error


def transferred(source: str, architecture: Architecture, fresh: Any, mesh: Mesh, say: Callable[[str], None]) -> Any:
    """Returns the parameters to start from: the source's backbone, and its head where it is the same.

    Args:
      source: a run or a checkpoint that `check` accepts.
      architecture: of the new run.
      fresh: its initial parameters, whose shardings the result has.
      mesh: today's devices.
      say: gets a line that names what is new, and one for what is left out.
    """
    found = checkpoint.find(source)
    _, params = checkpoint.restore_model(found, mesh)
    params, new, left = graft(architecture, params, fresh)
    say(f"weights from {found}" + (f"; new: {', '.join(new)}" if new else ""))
    if left:
        say(f"left out of them: {', '.join(left)}")
    return params


def tokenizer_of(source: str) -> Tokenizer | None:
    """Returns the tokenizer that a checkpoint's weights know; None where it came without one."""
    folder = checkpoint.find(source) / "record" / "tokenizer"
    return load_tokenizer(str(folder)) if folder.exists() else None
