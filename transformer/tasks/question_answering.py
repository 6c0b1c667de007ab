"""Question answering: the span of a context that answers a question, or that there is none.

Rules as Hugging Face Transformers 4's pipeline had them (`QuestionAnsweringPipeline`, gone in Transformers 5), after
Devlin et al. 2019, sections 4.2 and 4.3; docs/pipelines.md lists them.

Shape letters: T tokens.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from transformer.errors import UserError
from transformer.inference.restored import Restored
from transformer.metrics.spans import Span, Window, best_answers
from transformer.tasks.reader import scores_of_tokens
from transformer.tasks.task import Options, RowTask, fields_of, needs_head, text_of
from transformer.tokenizers.framing import Length, Row, Text
from transformer.tokenizers.huggingface import HuggingFaceTokenizer

CONTEXT = 1
"""Number of the context among the two texts of a row."""


@dataclasses.dataclass(frozen=True)
class AnsweringOptions(Options):
    """How answers are looked for."""

    top_k: int = 1
    """Answers of each, the surest first; of one, the answer by itself and not in a list."""
    doc_stride: int | None = None
    """Tokens that windows of a long context share; None: 128, or half of `max_seq_len` where that is less."""
    max_answer_len: int = 15
    """Most tokens of an answer."""
    max_seq_len: int | None = None
    """Tokens of a window, question and specials too; None: 384, or what the model reads where that is less."""
    max_question_len: int = 64
    """Tokens of a question that are read; the rest is left out."""
    handle_impossible_answer: bool = False
    """Whether there may be no answer: it is then the empty text, scored as the start of the row."""
    align_to_words: bool = True
    """Whether an answer is widened to whole words."""

    def __post_init__(self) -> None:
        for name in ("top_k", "max_answer_len", "max_question_len"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: give at least 1")


class QuestionAnswering(RowTask):
    """A model that scores each token as an answer's start and end."""

    name, options, read = "question-answering", AnsweringOptions, scores_of_tokens

    def __init__(self, restored: Restored):
        needs_head(restored, self.name, "question_answering")
        super().__init__(restored)
        name = restored.tokenizer.special_names.get("cls_token")
        self._first_special = None if name is None else restored.tokenizer.special_id(name)
        self._has_words = isinstance(restored.tokenizer, HuggingFaceTokenizer)

    def gathered(self, inputs: tuple[Any, ...], told: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """question= and context= are texts, or lists of as many."""
        if inputs:
            return super().gathered(inputs, told)
        told = dict(told)
        if "question" not in told or "context" not in told:
            raise UserError('question-answering takes question= and context=, or dicts with "question" and "context"')
        questions, contexts = told.pop("question"), told.pop("context")
        if not isinstance(questions, list | tuple):
            questions = [questions] * (len(contexts) if isinstance(contexts, list | tuple) else 1)
        if not isinstance(contexts, list | tuple):
            contexts = [contexts] * len(questions)
        if len(questions) != len(contexts):
            raise UserError(f"{len(questions)} questions and {len(contexts)} contexts: give as many of each")
        return [{"question": q, "context": c} for q, c in zip(questions, contexts, strict=True)], told

    def texts(self, given: Any, options: AnsweringOptions) -> list[Text]:
        question, context = fields_of(given, "question", "context")
        return [(self._shortened(text_of(question, "the question"), options), text_of(context, "the context"))]

    def _shortened(self, question: str, options: AnsweringOptions) -> str:
        """Returns the part of a question that is read."""
        [spans] = self.tokenizer.encode_spans([question])
        most = options.max_question_len
        return question if len(spans.ids) <= most else question[: int(spans.ends[most - 1])]

    def length(self, options: AnsweringOptions) -> tuple[Length | None, bool]:
        context = self.restored.architecture.longest_input
        most = min(384 if options.max_seq_len is None else options.max_seq_len, context or 1 << 30)
        stride = min(most // 2, 128) if options.doc_stride is None else options.doc_stride
        return Length(most, "only_second", stride), True

    def answer(
        self,
        given: Mapping[str, str],
        rows: Sequence[Sequence[Row]],
        scores: Sequence[Sequence[np.ndarray]],
        options: AnsweringOptions,
    ) -> Any:
        context = given["context"]

        def place(number: int, span: Span) -> tuple[int, int]:
            return self._characters(rows[0][number], span, context, options.align_to_words)

        windows = (
            Window(logits_T2, self._answerable(row), row.starts, row.ends)
            for row, logits_T2 in zip(rows[0], scores[0], strict=True)
        )
        answers = best_answers(
            context,
            windows,
            most_tokens=options.max_answer_len,
            may_be_none=options.handle_impossible_answer,
            top_k=options.top_k,
            spans=2 * options.top_k + 10 if options.align_to_words else options.top_k,
            place=place,
        )
        found = [{"score": each.score, "start": each.start, "end": each.end, "answer": each.text} for each in answers]
        return found[0] if len(found) == 1 else found

    def _answerable(self, row: Row) -> np.ndarray:
        """Returns where an answer may be, bool[T]: in the context; and the first special, which stands for none."""
        return (row.texts == CONTEXT) | (row.ids == (-1 if self._first_special is None else self._first_special))

    def _characters(self, row: Row, candidate: Span, context: str, align: bool) -> tuple[int, int]:
        """Returns the characters of a candidate."""
        start, end = int(row.starts[candidate.start]), int(row.ends[candidate.end])
        if not align or row.texts[candidate.start] != CONTEXT or row.texts[candidate.end] != CONTEXT:
            return start, end
        if not self._has_words:  # the text was not split into words before it was encoded
            start = max(context.rfind(" ", 0, start + 1), context.rfind("\n", 0, start + 1)) + 1
            ends = [place for place in (context.find(" ", end), context.find("\n", end)) if place >= 0]
            return start, min(ends, default=len(context))
        first, last = (
            (row.texts == CONTEXT) & (row.words == row.words[place]) for place in (candidate.start, candidate.end)
        )
        return int(row.starts[first].min()), int(row.ends[last].max())

    def listed(self, answers: list[Any]) -> Any:
        return answers[0] if len(answers) == 1 else answers
