"""A run or a checkpoint, ready to use: text in, text out."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
from etils import epath

from transformer import checkpoint
from transformer.data.tokenizer import Tokenizer
from transformer.data.tokenizer_kinds import load_tokenizer
from transformer.errors import UserError
from transformer.inference.decode import generate
from transformer.inference.sampling import Sampling
from transformer.layers.execution import Execution
from transformer.sharding import MeshConfig, make_mesh


@dataclasses.dataclass(frozen=True)
class TextGenerator:
    """A language model with its tokenizer."""

    model: nn.Module
    params: Any
    tokenizer: Tokenizer
    step: str
    """Which checkpoint the weights are."""

    def __call__(
        self, prompts: Sequence[str], *, max_new_tokens: int, sampling: Sampling = Sampling(), seed: int = 0
    ) -> list[str]:
        """Returns the continuation of each prompt, without the prompt."""
        begun = [[self.tokenizer.bos_id, *self.tokenizer.encode(prompt)] for prompt in prompts]
        continued = generate(
            self.model,
            self.params,
            begun,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            seed=seed,
            stop_id=self.tokenizer.eos_id,
        )
        return [self.tokenizer.decode(tokens) for tokens in continued]


def load(path: epath.PathLike, execution: Execution = Execution()) -> TextGenerator:
    """Returns the model of a run's newest checkpoint, or of the checkpoint that `path` names, on one device.

    Raises:
      UserError: there is no checkpoint, it is not complete, or its model does not continue text.
    """
    found = checkpoint.find(path)
    architecture = checkpoint.read_architecture(found)
    if (architecture.kind, architecture.head) != ("decoder", "language_model"):
        raise UserError(
            f"{found} is a {architecture.family} model with the head {architecture.head}: only decoders with the head "
            "language_model continue text"
        )
    _, params = checkpoint.restore_model(found, make_mesh(MeshConfig(data=1)))
    return TextGenerator(
        architecture.build(execution), params, load_tokenizer(str(found / "record" / "tokenizer")), found.name
    )
