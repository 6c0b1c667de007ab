"""Predict hidden tokens from both sides: BERT (Devlin et al. 2019), RoBERTa (Liu et al. 2019), ALBERT (Lan et al. 2020)
and SpanBERT (Joshi et al. 2020).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from transformer.data.records import Reading, Record
from transformer.data.vocabulary import Vocabulary
from transformer.errors import UserError
from transformer.objectives.masking import begins_word, budget, choose_tokens, choose_words, corrupt
from transformer.objectives.objective import Setting, TokenObjective
from transformer.objectives.sentence_pairs import SPECIALS, join_pair, make_pair
from transformer.objectives.span_masking import ALBERT, SPANBERT, choose_spans, places_of


class _Row(NamedTuple):
    tokens: np.ndarray
    segment_ids: np.ndarray
    positions: np.ndarray
    token_types: np.ndarray | None
    sentence_target: int


@dataclasses.dataclass(frozen=True)
class MaskedLM(TokenObjective):
    """Masked language modelling. 15 % of a row's tokens are chosen; of these 80 % become [MASK], 10 % a random piece.

    Without a sentence task a row is a window of packed documents, <s> ... </s> each (RoBERTa's FULL-SENTENCES).
    """

    name: ClassVar[str] = "masked_lm"
    kind: ClassVar = "encoder"

    rate: float = 0.15
    """The part of a row's tokens that is chosen."""
    choose: Literal["tokens", "words", "ngrams", "spans"] = "tokens"
    """What is hidden: single tokens (BERT), whole words (BERT's later release), up to three words in a row (ALBERT), or
    spans of up to ten (SpanBERT), each with one fate."""
    boundary: bool = False
    """Whether hidden tokens are also told from the two tokens around their span (SpanBERT); needs spans."""
    sentence: Literal["none", "nsp", "sop"] = "none"
    """What a row of two sentences is asked: does B follow A (nsp, BERT), are they in order (sop, ALBERT)."""
    static_copies: int | None = None
    """How often a text is hidden in different ways before they repeat (BERT: 10); None: always anew (RoBERTa)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(0 < self.rate < 1, "rate", "it must lie between 0 and 1")
        self.require(not self.boundary or self.choose == "spans", "boundary", "it needs --objective.choose spans")
        self.require(self.static_copies is None or self.static_copies >= 1, "static_copies", "it must be at least 1")

    @property
    def head(self) -> str:
        return "pretraining" if self.tasks else "masked_lm"

    @property
    def tasks(self) -> frozenset[str]:
        asked = {"boundary": self.boundary, "sentence": self.sentence != "none"}
        return frozenset(task for task, wanted in asked.items() if wanted)

    @property
    def copies(self) -> int | None:
        return self.static_copies

    def reading(self, seq_len: int) -> Reading:
        specials = 2 if self.sentence == "none" else SPECIALS
        if seq_len < 8 + specials:
            raise UserError(f"--train.seq-len {seq_len} is too short for masked_lm: give at least {8 + specials}")
        if self.sentence == "none":
            return Reading("windows", seq_len - specials)
        return Reading("documents", seq_len - specials, others=self.sentence == "nsp")

    def check(self, setting: Setting) -> None:
        vocabulary = setting.vocabulary
        _ = vocabulary.mask, self.sentence == "none" or (vocabulary.cls, vocabulary.sep)

    def example(self, record: Record, rng: np.random.Generator, setting: Setting) -> dict[str, Any]:
        """Returns a row with hidden tokens. T: `setting.seq_len`; P: its share of hidden tokens, the most there can be.

        `inputs` are `tokens`, `positions`, `segment_ids` [T] and `masked_positions` [P], with a sentence task
        `token_types` [T], with the boundary objective `boundary_left`, `boundary_right` and `boundary_offset` [P].
        `targets` and `weights` are [P]: places that a short row does not need weigh 0. With a sentence task there is
        `sentence_targets` [].
        """
        vocabulary = setting.vocabulary
        row = self._window(record, setting) if self.sentence == "none" else self._pair(record, rng, setting)
        places, begins, ends = self._choose(row, rng, vocabulary)
        # A span of SpanBERT's has one fate, in the other ways each token has its own.
        together = np.cumsum(np.diff(begins, prepend=-1) > 0) - 1 if self.choose == "spans" else np.arange(len(places))
        hidden = corrupt(row.tokens, places, together, vocabulary, rng)

        def slots(values: np.ndarray, dtype: type = np.int32) -> np.ndarray:
            filled = np.zeros(budget(self.rate, setting.seq_len), dtype)
            filled[: len(values)] = values
            return filled

        inputs = {"tokens": hidden, "positions": row.positions, "segment_ids": row.segment_ids}
        inputs["masked_positions"] = slots(places)
        if row.token_types is not None:
            inputs["token_types"] = row.token_types
        if self.boundary:
            inputs["boundary_left"] = slots(begins - 1)
            inputs["boundary_right"] = slots(ends)
            inputs["boundary_offset"] = slots(places - begins)
        example = {
            "inputs": inputs,
            "targets": slots(row.tokens[places]),
            "weights": slots(np.ones(len(places)), np.float32),
        }
        if self.sentence != "none":
            example["sentence_targets"] = np.int32(row.sentence_target)
        return example

    def _choose(
        self, row: _Row, rng: np.random.Generator, vocabulary: Vocabulary
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the places to hide, rising, and of each the first place of its span and the one after its last."""
        maskable = (row.segment_ids > 0) & ~vocabulary.is_special[row.tokens]
        count = budget(self.rate, int((row.segment_ids > 0).sum()))
        if self.choose == "tokens":
            places = choose_tokens(maskable, count, rng)
            return places, places, places + 1
        starts = begins_word(row.tokens, maskable, vocabulary)
        if self.choose == "words":
            places = choose_words(maskable, starts, count, rng)
            return places, places, places + 1
        spans = choose_spans(maskable, starts, count, ALBERT if self.choose == "ngrams" else SPANBERT, rng)
        places, number = places_of(spans)
        return places, spans[number, 0], spans[number, 1]

    def _window(self, record: Record, setting: Setting) -> _Row:
        """A window of packed documents; the first and the last get the <s> and </s> that lie outside the window."""
        vocabulary, length = setting.vocabulary, setting.seq_len
        tokens, segment_ids = (record[name][record["segment_ids"] > 0] for name in ("tokens", "segment_ids"))
        if len(tokens) and tokens[0] != vocabulary.bos:
            tokens = np.concatenate(([vocabulary.bos], tokens))
            segment_ids = np.concatenate((segment_ids[:1], segment_ids))
        if len(tokens) and tokens[-1] != vocabulary.eos:
            tokens = np.append(tokens, vocabulary.eos)
            segment_ids = np.append(segment_ids, segment_ids[-1])
        empty, segments, positions = np.zeros((3, length), np.int32)
        row = _Row(empty + np.int32(vocabulary.pad), segments, positions, None, 0)
        row.tokens[: len(tokens)] = tokens
        row.segment_ids[: len(tokens)] = segment_ids
        first = np.searchsorted(segment_ids, segment_ids)  # segment ids rise: where each token's document begins
        row.positions[: len(tokens)] = np.arange(len(tokens)) - first
        return row

    def _pair(self, record: Record, rng: np.random.Generator, setting: Setting) -> _Row:
        vocabulary, length = setting.vocabulary, setting.seq_len
        if self.sentence == "none" or not record["segment_ids"].any():
            empty = np.zeros(length, np.int32)
            return _Row(empty, empty, empty, empty, 0)
        pair = make_pair(self.sentence, record, vocabulary, rng)
        tokens, segment_ids, token_types = join_pair(pair, length, vocabulary)
        positions = np.arange(length, dtype=np.int32) * segment_ids
        return _Row(tokens, segment_ids, positions, token_types, pair.target)

    def loss(self, outputs: Any, batch: Mapping[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
        """Returns the sums over the hidden tokens; `nll` and `accuracy` are the masked language model's alone.

        SpanBERT's boundary loss is added token by token. A row's sentence loss weighs as much as its hidden tokens, so
        that with as many in each row the loss is the mean over tokens plus the mean over rows.
        """
        loss_sum, weight, metrics = super().loss(outputs, batch)
        if self.boundary:
            if outputs.boundary is None:
                raise UserError("--objective.boundary: this model has no boundary head")
            boundary_sum, _, found = super().loss(outputs.boundary, batch)
            loss_sum += boundary_sum
            metrics |= {"boundary_nll": found["nll"], "boundary_accuracy": found["accuracy"]}
        if self.sentence != "none":
            if outputs.sentence_B2 is None:
                raise UserError(f"--objective.sentence {self.sentence}: this model has no head for sentences")
            weights_B = batch["weights"].sum(axis=1)
            targets_B = batch["sentence_targets"]
            scores_B2 = jax.nn.log_softmax(outputs.sentence_B2.astype(jnp.float32))
            nll_B = -jnp.take_along_axis(scores_B2, targets_B[:, None], axis=1)[:, 0]
            right_B = (scores_B2.argmax(axis=1) == targets_B).astype(jnp.float32)
            sentence_sum = (weights_B * nll_B).sum()
            loss_sum += sentence_sum
            metrics |= {"sentence_nll": sentence_sum, "sentence_accuracy": (weights_B * right_B).sum()}
        return loss_sum, weight, metrics
