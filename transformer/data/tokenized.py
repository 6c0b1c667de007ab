"""A dataset whose records have tokens: texts, or what is captioned, transcribed or told by words."""

import dataclasses

from transformer.data.dataset import Dataset
from transformer.tokenizers.tokenizer import Tokenizer
from transformer.tokenizers.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class TokenizedDataset(Dataset):
    """A dataset with a tokenizer, which travels with every checkpoint."""

    tokenizer: Tokenizer
    vocabulary: Vocabulary
    """The tokenizer's."""
