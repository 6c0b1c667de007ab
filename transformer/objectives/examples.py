"""What objectives on a task's examples share: they fine-tune models of texts, and read rows of such a dataset."""

import dataclasses
from typing import ClassVar

import numpy as np

from transformer.data.dataset import Dataset
from transformer.data.examples.dataset import ExamplesDataset
from transformer.data.records import Record
from transformer.errors import UserError
from transformer.objectives.objective import ModelInputs, Objective


@dataclasses.dataclass(frozen=True)
class ExamplesObjective(Objective):
    """An objective on the examples of a task."""

    kind: ClassVar[str] = "encoder"
    fine_tunes: ClassVar[bool] = True
    reads: ClassVar[str]
    """What its examples are, in words."""

    def input_length(self, seq_len: int) -> int:
        return seq_len

    def checked(self, dataset: Dataset) -> ExamplesDataset:
        """Returns a dataset of examples; UserError for any other."""
        if not isinstance(dataset, ExamplesDataset):
            raise UserError(f"the objective {self.name} reads {self.reads}, and --data has none: choose another preset")
        return dataset


@dataclasses.dataclass(frozen=True)
class UnlabelledObjective(ExamplesObjective):
    """An objective on examples whose answers are no classes: what they need is whether the model reads token types."""

    def setting(self, dataset: Dataset, seq_len: int, model: ModelInputs) -> bool:
        """Returns whether the model reads token types."""
        self.checked(dataset)
        return self.bare_setting(seq_len, model)

    def bare_setting(self, seq_len: int, model: ModelInputs) -> bool:
        del seq_len
        return reads_types(model)


def reads_types(model: ModelInputs) -> bool:
    """Whether a model tells a second text by token types."""
    return getattr(model, "num_token_types", 1) > 1


def text_inputs(record: Record, has_types: bool, decoder_start: int | None = None) -> dict[str, np.ndarray]:
    """Returns the inputs of a model of a record with tokens.

    Args:
      record: `tokens`, `segment_ids` and `token_types`, int32 [T].
      has_types: whether the model tells a second text by token types.
      decoder_start: what the decoder of an encoder-decoder reads first; None: the model has none.
    """
    names = ("tokens", "segment_ids", "token_types") if has_types else ("tokens", "segment_ids")
    inputs = {name: record[name] for name in names}
    if decoder_start is not None:
        inputs |= read_again(record["tokens"], record["segment_ids"], decoder_start)
    return inputs


def read_again(tokens: np.ndarray, segment_ids: np.ndarray, start: int) -> dict[str, np.ndarray]:
    """Returns what a decoder reads that is to tell what a text is: the text, shifted right (Lewis et al. 2020, 3.1).

    Args:
      tokens: int32 [..., T], what the encoder reads.
      segment_ids: int32 [..., T]; 0 is padding, on the right.
      start: the token that a decoder's input starts with.
    """
    shifted = np.roll(tokens, 1, axis=-1)
    shifted[..., 0] = start
    return {"decoder_tokens": np.where(segment_ids > 0, shifted, 0), "decoder_segment_ids": segment_ids}
