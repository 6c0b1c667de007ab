"""A dataset whose records have tokens: texts, or what is captioned, transcribed or told by words."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from transformer.data.dataset import Dataset
from transformer.tokenizers.tokenizer import Tokenizer
from transformer.tokenizers.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class TokenizedDataset(Dataset):
    """A dataset with a tokenizer, which travels with every checkpoint."""

    tokenizer: Tokenizer
    vocabulary: Vocabulary
    """The tokenizer's."""


def framed(text: str, tokenizer: Tokenizer) -> tuple[list[int], list[int], list[int]]:
    """Returns the ids that begin a text, its own, and those that end it.

    A tokenizer with a template that ends texts, such as CLIP's and Whisper's, says what they are; others have <s> and
    </s>.
    """
    before, after = tokenizer.template()
    before, after = (before, after) if after else ([tokenizer.bos_id], [tokenizer.eos_id])
    return before, tokenizer.encode(text), after


def padded(ids: Sequence[int], length: int, tokenizer: Tokenizer) -> dict[str, np.ndarray]:
    """Returns `tokens` and `segment_ids`, int32[length], of a text that is no longer."""
    tokens, segment_ids = np.full(length, tokenizer.pad_id, np.int32), np.zeros(length, np.int32)
    tokens[: len(ids)], segment_ids[: len(ids)] = ids, 1
    return {"tokens": tokens, "segment_ids": segment_ids}


def tokens_of(text: str, tokenizer: Tokenizer, length: int) -> dict[str, np.ndarray]:
    """Returns `tokens` and `segment_ids`, int32[length], of a framed text; a longer one is cut, and keeps its end."""
    before, own, after = framed(text, tokenizer)
    return padded([*before, *own][: length - len(after)] + after, length, tokenizer)
