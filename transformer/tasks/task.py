"""What a task is: inputs as people have them in, answers as people want them out.

The answers of a task that Hugging Face Transformers has, or had, have the keys and the shapes of its pipelines.
"""

import abc
import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from transformer.errors import UserError
from transformer.inference.restored import Restored
from transformer.tasks.reader import Read, RowReader
from transformer.tokenizers.framing import Length, Row, Text, framed


@dataclasses.dataclass(frozen=True)
class Options:
    """What a call may say about its answers; a task adds its own."""

    @classmethod
    def names(cls) -> list[str]:
        """Returns the names of the options that there are."""
        return [field.name for field in dataclasses.fields(cls)]

    @classmethod
    def of(cls, told: Mapping[str, Any], task: str) -> Self:
        """Returns the options that a person told by name; UserError for a name that the task does not know."""
        check_names(told, cls.names(), task)
        return cls(**told)


def check_names(told: Mapping[str, Any], names: Sequence[str], task: str) -> None:
    """Raises UserError for an option that a task does not have, and offers the nearest name."""
    for name in told:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            offered = f"; did you mean {near[0]}?" if near else f"; it has {', '.join(names) or 'none'}"
            raise UserError(f"{task} has no option {name!r}{offered}")


class Task(abc.ABC):
    """A task with a model.

    Raises:
      UserError: the model is of another task.
    """

    name: str
    options: ClassVar[type[Any]] = Options
    """Class of its options: `Options`, or what has its `names` and `of`."""
    window: ClassVar[int] = 16
    """Batches of a stream whose inputs are looked at together, to be sorted by length."""

    def __init__(self, restored: Restored):
        self.restored = restored

    def gathered(self, inputs: tuple[Any, ...], told: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Returns what a call is to answer, one input or several, and its options by name."""
        if len(inputs) != 1:
            raise UserError(f"{self.name} takes its inputs as one argument, and {len(inputs)} are given")
        return inputs[0], told

    def is_one(self, given: Sequence[Any]) -> bool:
        """Whether a list is one input."""
        del given
        return False

    @abc.abstractmethod
    def answers(self, inputs: Sequence[Any], options: Any, batch_size: int, first: int) -> list[Any]:
        """Returns an answer an input.

        Args:
          inputs: some of a call's.
          options: of the task's class.
          batch_size: what the model reads together.
          first: number of the first of them among all, for messages.
        """

    def alone(self, given: Any, answer: Any, told: Mapping[str, Any]) -> Any:
        """Returns what a call with one input returns; `told` are the options of the call itself."""
        del given, told
        return answer

    def listed(self, answers: list[Any]) -> Any:
        """Returns what a call with a list of inputs returns."""
        return answers


class RowTask(Task):
    """A task whose inputs become rows of tokens for a model, and whose answers are read off a row's scores."""

    read: ClassVar[Read]
    """What is read of the model's outputs."""

    def __init__(self, restored: Restored):
        super().__init__(restored)
        self.tokenizer = restored.tokenizer
        self.reader = RowReader(restored, type(self).read)

    @abc.abstractmethod
    def texts(self, given: Any, options: Any) -> list[Text]:
        """Returns the texts and pairs that the model reads of an input; UserError where it is none of this task's."""

    def length(self, options: Any) -> tuple[Length | None, bool]:
        """Returns how long rows may be, None: as long as they are; and whether longer texts go to windows."""
        del options
        return None, False

    @abc.abstractmethod
    def answer(self, given: Any, rows: Sequence[Sequence[Row]], scores: Sequence[Sequence[np.ndarray]], options: Any):
        """Returns the answer to an input: from the rows of each of its texts, and what was read of each row."""

    def answers(self, inputs: Sequence[Any], options: Any, batch_size: int, first: int) -> list[Any]:
        texts = []
        for number, given in enumerate(inputs, start=first):
            try:
                texts.append(self.texts(given, options))
            except UserError as error:
                raise UserError(f"input {number}: {error}") from None
        length, windows = self.length(options)
        rows = iter(framed(self.tokenizer, [text for each in texts for text in each], length, windows=windows))
        rows_of = [[next(rows) for _ in each] for each in texts]
        for number, (given, each) in enumerate(zip(inputs, rows_of, strict=True), start=first):
            self.check(number, given, each, options)
        scores = iter(self.reader([row for each in rows_of for some in each for row in some], batch_size))
        scores_of = [[[next(scores) for _ in some] for some in each] for each in rows_of]
        return [
            self.answer(given, own, read, options) for given, own, read in zip(inputs, rows_of, scores_of, strict=True)
        ]

    def check(self, number: int, given: Any, rows: Sequence[Sequence[Row]], options: Any) -> None:
        """Raises UserError where the model cannot read an input's rows."""
        del given, options
        context = self.restored.architecture.longest_input
        for some in rows:
            for row in some:
                if not len(row):
                    raise UserError(f"input {number} has no token for this model's tokenizer: give more text")
                if context is not None and len(row) > context:
                    raise UserError(
                        f"input {number} has {len(row)} tokens and the model reads {context}: {self.advice}"
                    )

    advice: ClassVar[str] = "shorten it, or give truncation=True to leave out the rest"
    """What to do about a text that is too long."""


def text_of(given: Any, what: str = "a text") -> str:
    """Returns an input that is to be a text, and not an empty one."""
    if not isinstance(given, str):
        raise UserError(f"{what} is to be a string, and it is a {type(given).__name__}")
    if not given.strip():
        raise UserError(f"{what} is empty: give some words, or leave it out")
    return given


def fields_of(given: Any, *names: str) -> list[Any]:
    """Returns the values of an input that is to be a dict with these keys."""
    if not isinstance(given, Mapping) or any(name not in given for name in names):
        raise UserError(f"an input is to be a dict with {' and '.join(map(repr, names))}")
    return [given[name] for name in names]


def needs_head(restored: Restored, task: str, *heads: str) -> None:
    """Raises UserError unless a model has one of the heads."""
    if restored.architecture.head not in heads:
        raise UserError(f"{restored.described}: {task} needs the head {' or '.join(heads)}")
