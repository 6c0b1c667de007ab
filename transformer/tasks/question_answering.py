"""Question answering: the span of a context that answers a question, or that there is none.

Rules as Hugging Face Transformers 4's pipeline had them (`QuestionAnsweringPipeline`, gone in Transformers 5), after
Devlin et al. 2019, sections 4.2 and 4.3; docs/pipelines.md lists them.

Shape letters: T tokens.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from transformer.errors import UserError
from transformer.inference.restored import Restored
from transformer.tasks.reader import scores_of_tokens
from transformer.tasks.task import Options, RowTask, fields_of, needs_head, text_of
from transformer.tokenizers.framing import Length, Row, Text
from transformer.tokenizers.huggingface import HuggingFaceTokenizer

CONTEXT = 1
"""Number of the context among the two texts of a row."""
_NEVER = 1e6
"""A null score before any window has one."""


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


class Candidate(NamedTuple):
    """A span of a row's tokens that may answer."""

    start: int
    end: int
    """The last token, included."""
    score: float


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
        context, null, found = given["context"], _NEVER, []
        wanted = 2 * options.top_k + 10 if options.align_to_words else options.top_k
        for row, logits_T2 in zip(rows[0], scores[0], strict=True):
            candidates, of_null = best_spans(logits_T2, self._answerable(row), wanted, options.max_answer_len)
            null = min(null, of_null)
            for candidate in candidates:
                start, end = self._characters(row, candidate, context, options.align_to_words)
                _add(found, candidate.score, start, end, context[start:end])
        if options.handle_impossible_answer:
            found.append({"score": null, "start": 0, "end": 0, "answer": ""})
        found = sorted(found, key=lambda each: each["score"], reverse=True)[: options.top_k]
        return found[0] if len(found) == 1 else found

    def _answerable(self, row: Row) -> np.ndarray:
        """Returns where an answer may be, bool[T]: in the context; and the first special, which stands for none."""
        return (row.texts == CONTEXT) | (row.ids == (-1 if self._first_special is None else self._first_special))

    def _characters(self, row: Row, candidate: Candidate, context: str, align: bool) -> tuple[int, int]:
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


def best_spans(
    logits_T2: np.ndarray, answerable_T: np.ndarray, top_k: int, max_answer_len: int
) -> tuple[list[Candidate], float]:
    """Returns the surest spans of a row, the surest first, and the score of there being no answer.

    A span's score is the product of the probabilities of its start and of its end, each a softmax over the tokens that
    may answer; that of no answer is the product at the first token. Spans are no longer than `max_answer_len` tokens.

    Args:
      logits_T2: scores of each token as a start, and as an end.
      answerable_T: where an answer may be.
      top_k: most spans.
      max_answer_len: most tokens of a span.
    """
    logits = np.where(answerable_T[:, None], logits_T2, np.float32(-10_000.0))
    probabilities_T2 = np.exp(logits - logits.max(axis=0))
    probabilities_T2 /= probabilities_T2.sum(axis=0)
    null = float(probabilities_T2[0].prod())
    probabilities_T2[0] = 0.0
    starts_T, ends_T = probabilities_T2.T
    scores_TT = np.tril(np.triu(np.outer(starts_T, ends_T)), max_answer_len - 1)
    scores = scores_TT.ravel()
    best = np.argpartition(-scores, top_k)[:top_k] if top_k < len(scores) else np.arange(len(scores))
    order = best[np.lexsort((best, -scores[best]))]
    firsts, lasts = np.unravel_index(order, scores_TT.shape)
    return [
        Candidate(int(first), int(last), float(scores_TT[first, last]))
        for first, last in zip(firsts, lasts, strict=True)
        if answerable_T[first] and answerable_T[last]
    ], null


def _add(found: list[dict[str, Any]], score: float, start: int, end: int, answer: str) -> None:
    """Adds an answer; the score of one with the same text, whatever its case, is added to the first."""
    for earlier in found:
        if earlier["answer"].lower() == answer.lower():
            earlier["score"] += score
            return
    found.append({"score": score, "start": start, "end": end, "answer": answer})
