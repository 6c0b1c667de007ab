"""DistilBERT: half of BERT's layers, without token types and without a vector a sequence.

Sanh et al. 2019, "DistilBERT, a distilled version of BERT: smaller, faster, cheaper and lighter".
"""

import dataclasses
from typing import Any, ClassVar

from transformer import checks
from transformer.layers.execution import Execution
from transformer.layers.heads import Pooler
from transformer.models.bert import BertBackbone
from transformer.models.encoder import CLASSIFIERS, EncoderConfig


@dataclasses.dataclass(frozen=True)
class DistilBertConfig(EncoderConfig):
    """A DistilBERT; the defaults are its base model's (66,362,880 parameters without a head)."""

    family: ClassVar[str] = "distilbert"
    heads: ClassVar[tuple[str, ...]] = ("masked_lm", *CLASSIFIERS, "none")
    # The layer between the first token and its classes is new with the classes; only its place is the pooler's.
    pooled_heads: ClassVar[frozenset[str]] = frozenset({"sequence_classification", "multiple_choice"})

    num_layers: int = 6
    """Blocks."""
    dropout: float = 0.1
    """Probability of dropping embeddings and sublayer outputs, as in BERT (its code leaves attention's outputs whole),
    and what the head of tokens reads."""
    answer_dropout: float = 0.1
    """Probability of dropping what the head of answers reads."""
    classifier_dropout: float = 0.2
    """Probability of dropping what the heads of sequences and choices read."""

    def __post_init__(self):
        super().__post_init__()
        checks.within(self, "[0, 1)", "answer_dropout", "classifier_dropout")

    @property
    def head_dropout(self) -> float:
        """Probability of dropping what a classification head reads."""
        rates = {"question_answering": self.answer_dropout, "token_classification": self.dropout}
        return rates.get(self.head, self.classifier_dropout)

    def pooler(self, dtype: Any) -> Pooler:
        """Returns the layer between the first token and what reads it."""
        return Pooler(dtype, "relu", self.initializer)

    def backbone(self, execution: Execution) -> BertBackbone:
        """Returns the model below its head."""
        return BertBackbone(self, execution, num_token_types=0)
