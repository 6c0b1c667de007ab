"""Text classification: the classes of a text, or of a pair of texts, and how likely each is; or a number."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from transformer.errors import UserError
from transformer.inference.restored import Restored
from transformer.tasks.reader import scores_of_row
from transformer.tasks.task import Options, RowTask, needs_head, text_of
from transformer.tokenizers.framing import Length, Row, Text

Function = Literal["sigmoid", "softmax", "none"]
BEST = -1
"""`top_k` of who did not say how many classes: the best, by itself and not in a list."""


@dataclasses.dataclass(frozen=True)
class ClassificationOptions(Options):
    """How classes are told."""

    top_k: int | None = BEST
    """Classes of each, the likeliest first, in a list; None: all."""
    function_to_apply: Function | None = None
    """What makes scores of the model's outputs; None: nothing of a regression, the sigmoid where several classes may be
    right or there is one alone, else the softmax over them."""
    truncation: bool = False
    """Whether a text that is too long is cut, a pair from its longer text; otherwise it is refused."""
    max_length: int | None = None
    """With `truncation`, the most tokens, specials too; None: as many as the model reads."""

    def __post_init__(self) -> None:
        if self.top_k is not None and self.top_k < 1 and self.top_k != BEST:
            raise UserError(f"top_k is {self.top_k}: give at least 1, or None for all classes")
        if self.function_to_apply not in (None, *FUNCTIONS):
            raise UserError(f"function_to_apply is {self.function_to_apply!r}: give {', '.join(FUNCTIONS)}, or None")


class TextClassification(RowTask):
    """A model with classes of texts."""

    name, options, read = "text-classification", ClassificationOptions, scores_of_row

    def __init__(self, restored: Restored):
        needs_head(restored, self.name, "sequence_classification")
        super().__init__(restored)

    def texts(self, given: Any, options: ClassificationOptions) -> list[Text]:
        if isinstance(given, list | tuple) and len(given) == 1 and isinstance(given[0], list | tuple):
            given = dict(zip(("text", "text_pair"), given[0], strict=False))  # [[text, second text]], as it once was
        if isinstance(given, Mapping):
            if not {"text"} <= given.keys() <= {"text", "text_pair"}:
                raise UserError('a dict is to have "text", and "text_pair" where there are two')
            text = text_of(given["text"])
            return [(text, text_of(given["text_pair"], "text_pair"))] if given.get("text_pair") is not None else [text]
        if isinstance(given, list | tuple):
            raise UserError('a list within a list: give a pair as {"text": ..., "text_pair": ...}')
        return [text_of(given)]

    def length(self, options: ClassificationOptions) -> tuple[Length | None, bool]:
        return truncated(self.restored, options.truncation, options.max_length), False

    def answer(
        self,
        given: Any,
        rows: Sequence[Sequence[Row]],
        scores: Sequence[Sequence[np.ndarray]],
        options: ClassificationOptions,
    ) -> Any:
        del given, rows
        [[logits]] = scores
        return classes(self.restored, logits, options.top_k, options.function_to_apply)

    def alone(self, given: Any, answer: Any, told: Mapping[str, Any]) -> Any:
        """A text alone has its class in a list, unless the call says how many: so Transformers' pipeline has it."""
        return [answer] if isinstance(given, str) and "top_k" not in told else answer


def classes(restored: Restored, logits: np.ndarray, top_k: int | None, function: str | None) -> Any:
    """Returns the likeliest classes as dicts, in order; for `BEST` the one dict."""
    architecture = restored.architecture
    names = architecture.class_names
    scores = FUNCTIONS[function or default_function(restored)](logits)
    if top_k == BEST:
        best = int(scores.argmax())
        return {"label": names[best], "score": float(scores[best])}
    order = np.argsort(-scores, kind="stable")[:top_k]
    return [{"label": names[number], "score": float(scores[number])} for number in map(int, order)]


def default_function(restored: Restored) -> Function:
    """Returns what makes scores of a classifier's outputs where nobody says."""
    architecture = restored.architecture
    if architecture.problem_type == "regression":
        return "none"
    one = architecture.problem_type == "multi_label_classification" or architecture.num_labels == 1
    return "sigmoid" if one else "softmax"


def softmax(logits: np.ndarray) -> np.ndarray:
    """Returns probabilities over the last axis."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Returns the probability of each by itself."""
    return 1 / (1 + np.exp(-logits))


FUNCTIONS = {"softmax": softmax, "sigmoid": sigmoid, "none": lambda logits: logits}


def truncated(restored: Restored, truncation: bool, max_length: int | None) -> Length | None:
    """Returns how long a text may be; None: any, and longer ones than the model reads are refused."""
    if not truncation:
        return None
    context = restored.architecture.longest_input
    most = min(length for length in (max_length, context, 1 << 30) if length is not None)
    return Length(most)
