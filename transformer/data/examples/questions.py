"""Questions, each with a context that holds the answer, or does not: SQuAD's files, and rows.

A context that is longer than a row is read in windows that overlap. Each is an example: it has the answer where all of
the answer is in it, and else none.
"""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from transformer.data.examples.config import ExamplesConfig
from transformer.data.examples.ragged import FramedRows, Ragged, framed_rows, no_tokens
from transformer.data.examples.reading import ExampleReading, spread
from transformer.data.examples.rows import Row, rows_of
from transformer.data.records import LengthRecords, Record
from transformer.data.text.readers import is_json, is_json_array, open_text
from transformer.errors import UserError
from transformer.tokenizers import framing
from transformer.tokenizers.framing import Length
from transformer.tokenizers.tokenizer import Tokenizer

CONTEXT = 1
"""Number of the context among the two texts of a row."""
QUESTION_TOKENS = 64
"""Tokens of a question that are read, as of BERT's (Devlin et al. 2019, `max_query_length`)."""
_QUESTION, _CONTEXT, _ANSWERS = "--data.text-field", "--data.pair-field", "--data.label-field"


class Question(NamedTuple):
    """A question and what people said."""

    question: str
    context: str
    answers: tuple[tuple[str, int], ...]
    """Right answers and the character of the context that each begins at; none: the context does not say."""


@dataclasses.dataclass(frozen=True)
class QuestionsReading(ExampleReading):
    """How a task reads questions."""

    def rows(self, path: Path, config: ExamplesConfig) -> Iterator[Row]:
        if is_json(path) and not is_json_array(path) and (articles := _squad(path)) is not None:
            if all(
                isinstance(each, dict) and config.text_field in each for each in articles
            ):  # Transformers' examples'
                return (Row(f"{path}: question {number}", row) for number, row in enumerate(articles, start=1))
            return _questions_of(articles, path)
        return rows_of(path, config.columns)

    def key(self, row: Row, config: ExamplesConfig) -> str:
        """A row's context: all questions about it are in one split."""
        return self.question(row, config).context

    def texts(self, row: Row, config: ExamplesConfig) -> tuple[str, ...]:
        return self.question(row, config)[:2]

    def question(self, row: Row, config: ExamplesConfig) -> Question:
        """Returns what a row asks; UserError where it asks nothing, or an answer is not in its context."""
        if config.pair_field is None:
            raise UserError(f"name the field with the context that answers a question: {_CONTEXT}")
        context = row.text(config.pair_field, _CONTEXT)
        answers = _answers(row.value(config.label_field, _ANSWERS), f"{row.where}: {config.label_field}")
        for text, start in answers:
            if context[max(start, 0) :][: len(text)] != text:
                place = context.find(text)
                hint = f"it begins at {place}" if place >= 0 else "it is not in there"
                raise UserError(
                    f"{row.where}: the answer {text[:40]!r} does not begin at character {start} of its context: {hint}"
                )
        return Question(row.text(config.text_field, _QUESTION), context, answers)

    def records(
        self, rows: Sequence[Row], config: ExamplesConfig, tokenizer: Tokenizer, labels: Sequence[str]
    ) -> "QuestionsRecords":
        del labels
        questions = [self.question(row, config) for row in rows]
        return QuestionsRecords(tokenizer, questions, self.length, config.stride)

    def note(self, records: LengthRecords) -> str:
        """Returns into how many windows questions' contexts were cut, and how many of these have no answer in them."""
        assert isinstance(records, QuestionsRecords)
        without = int((records.spans[:, 0] == 0).sum())
        return (
            f"{len(records.questions):,} questions in {len(records):,} windows of {spread(records.lengths)}; "
            f"{without:,} have no answer in them"
        )

    def empty(self, num_labels: int) -> Record:
        del num_labels
        return {**no_tokens(self.length), "span": np.zeros(2, np.int32), "there": np.zeros((), np.float32)}


def _answers(value: Any, where: str) -> tuple[tuple[str, int], ...]:
    """Returns answers with their places: of a list of objects, or of an object of lists."""
    if isinstance(value, dict) and value.keys() >= {"text", "answer_start"}:
        texts, starts = ([each] if isinstance(each, str | int) else each for each in map(value.get, _OF_ANSWER))
        if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
            raise UserError(f"{where}: give as many answer_start as text, in lists")
        value = [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
    if not isinstance(value, list):
        raise UserError(f"{where} is {json.dumps(value)[:60]}: give text and answer_start of each answer, or []")
    found = []
    for answer in value:
        text, start = (answer.get(name) if isinstance(answer, dict) else None for name in _OF_ANSWER)
        if not isinstance(text, str) or not isinstance(start, int) or not text.strip():
            raise UserError(f"{where} has {json.dumps(answer)[:60]}: an answer has text, not empty, and answer_start")
        found.append((text, start))
    return tuple(found)


_OF_ANSWER = ("text", "answer_start")


def _squad(path: Path) -> list[Any] | None:
    """Returns the articles of a file as SQuAD's are; None: it is another."""
    with open_text(path) as file:
        try:
            whole = json.load(file)
        except (ValueError, RecursionError):
            return None  # rows, an object a line; what is wrong with them is told there
    data = whole.get("data") if isinstance(whole, dict) else None
    return data if isinstance(data, list) else None


def _questions_of(articles: list[Any], path: Path) -> Iterator[Row]:
    """Yields the questions of SQuAD's articles."""
    number = 0
    for article in articles:
        for paragraph in _listed(article, "paragraphs", path):
            for asked in _listed(paragraph, "qas", path):
                number += 1
                if not isinstance(asked, dict):
                    raise UserError(f"{path}: question {number} is no object with fields")
                name = f" ({asked['id']})" if "id" in asked else ""
                told = {field: asked.get(field) for field in ("id", "question", "answers")}
                yield Row(f"{path}: question {number}{name}", {**told, "context": paragraph.get("context")})


def _listed(value: Any, field: str, path: Path) -> list[Any]:
    found = value.get(field) if isinstance(value, dict) else None
    if not isinstance(found, list):
        raise UserError(f"{path}: a part of its `data` has no list {field!r}, as SQuAD's files have")
    return found


class QuestionsRecords(LengthRecords):
    """Record i, a window: `tokens`, `token_types`, `segment_ids`, int32 [T]; `span`, int32 [2]; and `there`, float32 1.

    The span is the first and the last token of the answer; 0 and 0 where the window has none.
    """

    def __init__(self, tokenizer: Tokenizer, questions: Sequence[Question], length: int, stride: int):
        """Tokenizes questions and contexts.

        Args:
          tokenizer: any.
          questions: of a split.
          length: T.
          stride: tokens that a window shares with the one before it.
        """
        self.questions = questions
        asked = _shortened(tokenizer, [each.question for each in questions], min(QUESTION_TOKENS, length // 2))
        pairs = list(zip(asked, (each.context for each in questions), strict=True))
        of_question = list(framed_rows(tokenizer, pairs, Length(length, "only_second", stride), windows=True))
        self.windows = np.cumsum([0, *map(len, of_question)])
        """int64 [questions + 1]: the first window of each question, and the end."""
        rows = [row for windows in of_question for row in windows]
        self._rows = FramedRows(rows, length, tokenizer.pad_id)
        self.lengths = self._rows.lengths
        self.in_context = Ragged([(row.texts == CONTEXT).astype(np.int32) for row in rows])
        """1 at tokens of the context."""
        self.starts, self.ends = (Ragged([getattr(row, name) for row in rows]) for name in ("starts", "ends"))
        """Characters of the context that tokens of it stand for: from, and up to and without."""
        self.spans = np.array(
            [
                span_of(row, each.answers)
                for each, windows in zip(questions, of_question, strict=True)
                for row in windows
            ],
            np.int32,
        )
        """int32 [windows, 2]."""

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, index: int) -> Record:
        return {**self._rows.padded(index), "span": self.spans[index], "there": np.ones((), np.float32)}


def span_of(row: framing.Row, answers: Sequence[tuple[str, int]]) -> tuple[int, int]:
    """Returns the first and the last token of the first answer; (0, 0) where not all of it is in the row."""
    own = np.flatnonzero(row.texts == CONTEXT)
    if not answers or not len(own):
        return 0, 0
    text, start = answers[0]
    end = start + len(text)
    starts, ends = row.starts[own], row.ends[own]
    if start < starts[0] or end > ends[-1]:
        return 0, 0
    return int(own[np.searchsorted(starts, start, side="right") - 1]), int(own[np.searchsorted(ends, end)])


def _shortened(tokenizer: Tokenizer, questions: Sequence[str], most: int) -> list[str]:
    """Returns the part of each question that is read."""
    spans = tokenizer.encode_spans(questions)
    return [
        question if len(each.ids) <= most else question[: int(each.ends[most - 1])]
        for question, each in zip(questions, spans, strict=True)
    ]
