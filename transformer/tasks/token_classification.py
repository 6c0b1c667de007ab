"""Token classification: what each token of a text names, and tokens that belong together as one name.

Rules as Hugging Face Transformers' pipeline has them (`TokenClassificationPipeline`); docs/pipelines.md lists them.

Shape letters: T tokens, C classes.
"""

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from transformer.errors import UserError
from transformer.inference.restored import Restored
from transformer.tasks.reader import scores_of_tokens
from transformer.tasks.task import Options, RowTask, needs_head, text_of
from transformer.tasks.text_classification import softmax
from transformer.tokenizers.framing import SPECIAL, Length, Row, Text
from transformer.tokenizers.huggingface import HuggingFaceTokenizer
from transformer.tokenizers.tokenizer import Tokenizer

STRATEGIES = ("none", "simple", "first", "average", "max")


@dataclasses.dataclass(frozen=True)
class TaggingOptions(Options):
    """How tokens are told."""

    aggregation_strategy: Literal["none", "simple", "first", "average", "max"] = "none"
    """none: each token; simple: neighbours of the same class as one group; first, average, max: the same after each
    word has one class, of its first token, of the mean of its tokens, or of its surest token."""
    ignore_labels: tuple[str, ...] = ("O",)
    """Classes that are left out."""
    stride: int | None = None
    """Tokens that windows of a long text share; None: a text is cut to what the model reads."""

    def __post_init__(self) -> None:
        strategy = str(self.aggregation_strategy).lower()
        object.__setattr__(self, "aggregation_strategy", strategy)
        object.__setattr__(self, "ignore_labels", tuple(self.ignore_labels))
        if strategy not in STRATEGIES:
            raise UserError(f"aggregation_strategy is {strategy!r}: give {', '.join(STRATEGIES)}")
        if self.stride is not None and strategy == "none":
            raise UserError("stride joins windows by their groups: give aggregation_strategy, such as simple")
        if self.stride is not None and self.stride < 0:
            raise UserError(f"stride is {self.stride}: give at least 0")


@dataclasses.dataclass
class Token:
    """A token of a text, with its scores."""

    word: str
    """How the tokenizer spells it; of an unknown one the text itself."""
    scores_C: np.ndarray
    start: int
    end: int
    index: int
    """Its place in the row, specials counted."""
    goes_on: bool
    """Whether it goes on with the word of the token before."""


class TokenClassification(RowTask):
    """A model with classes of tokens."""

    name, options, read = "token-classification", TaggingOptions, scores_of_tokens

    def __init__(self, restored: Restored):
        needs_head(restored, self.name, "token_classification")
        super().__init__(restored)
        self._words = Words(self.tokenizer)

    def texts(self, given: Any, options: TaggingOptions) -> list[Text]:
        return [text_of(given)]

    def length(self, options: TaggingOptions) -> tuple[Length | None, bool]:
        context = self.restored.architecture.longest_input
        return None if context is None else Length(context, stride=options.stride or 0), options.stride is not None

    def check(self, number: int, given: Any, rows: Sequence[Sequence[Row]], options: TaggingOptions) -> None:
        super().check(number, given, rows, options)
        [[first, *others]], context = rows, self.restored.architecture.longest_input
        if not others and len(first) == context and given[(read := int(first.ends.max())) :].strip():
            logging.getLogger(__name__).warning(
                "input %d is longer than the %d tokens that the model reads: nothing is told of what comes after its "
                "character %d; give stride and aggregation_strategy to read all of it",
                number,
                context,
                read,
            )

    def answer(
        self, given: str, rows: Sequence[Sequence[Row]], scores: Sequence[Sequence[np.ndarray]], options: TaggingOptions
    ) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = []
        key = "entity" if options.aggregation_strategy == "none" else "entity_group"
        for row, logits_TC in zip(rows[0], scores[0], strict=True):
            tokens = self._words.tokens(given, row, softmax(logits_TC))
            told = named(tokens, self.restored.architecture.class_names, options.aggregation_strategy, self._words)
            groups += [each for each in told if each[key] not in options.ignore_labels]
        return without_overlaps(groups) if len(rows[0]) > 1 else groups


class Words:
    """How a tokenizer's tokens make words."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._library = tokenizer.framing if isinstance(tokenizer, HuggingFaceTokenizer) else None
        self._knows_words = bool(getattr(getattr(self._library, "model", None), "continuing_subword_prefix", None))
        self._unknown = tokenizer.special_names.get("unk_token")

    def tokens(self, text: str, row: Row, scores_TC: np.ndarray) -> list[Token]:
        """Returns the tokens of a text, without specials."""
        made = []
        for index in np.flatnonzero(row.texts != SPECIAL).tolist():
            token, start, end = int(row.ids[index]), int(row.starts[index]), int(row.ends[index])
            word = self._tokenizer.name_of(token) or ""
            if self._knows_words:  # the prefix, ##, makes a piece longer than what it stands for
                goes_on = len(word) != end - start
            else:
                goes_on = start > 0 and " " not in text[start - 1 : start + 1]
            if word == self._unknown:
                word, goes_on = text[start:end], False
            made.append(Token(word, scores_TC[index], start, end, index, goes_on))
        return made

    def joined(self, words: Sequence[str]) -> str:
        """Returns pieces as text."""
        if self._library is not None:
            return self._library.decoder.decode(list(words)) if self._library.decoder else " ".join(words)
        return "".join(words).replace("\u2581", " ").strip()


def named(tokens: Sequence[Token], names: Sequence[str], strategy: str, words: Words) -> list[dict[str, Any]]:
    """Returns what each token is or, but for "none", each group of tokens."""
    if strategy in ("none", "simple"):
        told = [_entity(token.scores_C, names, token.word, token.start, token.end, token.index) for token in tokens]
    else:
        told = [_of_word(word, names, strategy, words) for word in _split(tokens)]
    return told if strategy == "none" else grouped(told, words)


def _entity(
    scores_C: np.ndarray, names: Sequence[str], word: str, start: int, end: int, index: int | None = None
) -> dict[str, Any]:
    best = int(scores_C.argmax())
    told: dict[str, Any] = {"entity": names[best], "score": float(scores_C[best])}
    return told | ({} if index is None else {"index": index}) | {"word": word, "start": start, "end": end}


def _split(tokens: Sequence[Token]) -> list[list[Token]]:
    """Returns the tokens of each word."""
    words: list[list[Token]] = []
    for token in tokens:
        if words and token.goes_on:
            words[-1].append(token)
        else:
            words.append([token])
    return words


def _of_word(tokens: list[Token], names: Sequence[str], strategy: str, words: Words) -> dict[str, Any]:
    """Returns what a word is, by one of its tokens or by all."""
    if strategy == "first":
        scores_C = tokens[0].scores_C
    elif strategy == "max":
        scores_C = max(tokens, key=lambda token: token.scores_C.max()).scores_C
    else:
        scores_C = np.mean([token.scores_C for token in tokens], axis=0)
    word = words.joined([token.word for token in tokens])
    return _entity(scores_C, names, word, tokens[0].start, tokens[-1].end)


def grouped(told: Sequence[dict[str, Any]], words: Words) -> list[dict[str, Any]]:
    """Returns neighbours of the same class as one: B-X and I-X are both of class X, and B-X begins a new group."""
    groups: list[list[dict[str, Any]]] = []
    for each in told:
        begins, name = tag(each["entity"])
        if groups and not begins and tag(groups[-1][-1]["entity"])[1] == name:
            groups[-1].append(each)
        else:
            groups.append([each])
    return [
        {
            "entity_group": group[0]["entity"].split("-", 1)[-1],
            "score": float(np.mean([each["score"] for each in group])),
            "word": words.joined([each["word"] for each in group]),
            "start": group[0]["start"],
            "end": group[-1]["end"],
        }
        for group in groups
    ]


def tag(entity: str) -> tuple[bool, str]:
    """Returns whether a class begins a name (B-), and what it names; one without B- or I- goes on."""
    return (True, entity[2:]) if entity.startswith("B-") else (False, entity.removeprefix("I-"))


def without_overlaps(groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the groups of all windows of a text: of those that overlap, the longest, of equally long ones the surest.

    A group is compared with the last one that was kept.
    """
    kept: list[dict[str, Any]] = []
    for group in sorted(groups, key=lambda each: each["start"]):
        last = kept[-1] if kept else None
        if last is None or not last["start"] <= group["start"] < last["end"]:
            kept.append(group)
        elif (group["end"] - group["start"], group["score"]) > (last["end"] - last["start"], last["score"]):
            kept[-1] = group
    return kept
