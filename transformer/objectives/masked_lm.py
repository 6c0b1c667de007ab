"""Predict hidden tokens from both sides: BERT (Devlin et al. 2019), RoBERTa (Liu et al. 2019), ALBERT (Lan et al. 2020)
and SpanBERT (Joshi et al. 2020).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from transformer import checks
from transformer.data.records import Record
from transformer.data.text.records import TextReading
from transformer.objectives.masking import begins_word, budget, choose_tokens, choose_words, corrupt
from transformer.objectives.objective import Setting, TokenObjective
from transformer.objectives.sentence_pairs import SPECIALS, join_pair, make_pair
from transformer.objectives.span_masking import ALBERT, SPANBERT, choose_spans, places_of


class _Rows(NamedTuple):
    """int32[B, T] each, and the targets, int32[B]; both last ones None without a sentence task."""

    tokens: np.ndarray
    segment_ids: np.ndarray
    positions: np.ndarray
    token_types: np.ndarray | None = None
    sentence_targets: np.ndarray | None = None


class _Chosen(NamedTuple):
    """Places to hide, [B, P] each: rising in each row, the first so many slots of which are used."""

    places: np.ndarray
    used: np.ndarray
    begins: np.ndarray
    """The first place of each one's span."""
    ends: np.ndarray
    """The one after its last."""


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
        checks.within(self, "(0, 1)", "rate")
        checks.rule(self, "boundary", not self.boundary or self.choose == "spans", "it needs `choose` spans")
        checks.at_least(self, 1, "static_copies")

    @property
    def head(self) -> str:
        return "pretraining" if self.tasks else "masked_lm"

    @property
    def tasks(self) -> frozenset[str]:
        wanted_tasks = {"boundary": self.boundary, "sentence": self.sentence != "none"}
        return frozenset(task for task, wanted in wanted_tasks.items() if wanted)

    @property
    def copies(self) -> int | None:
        return self.static_copies

    def reading(self, seq_len: int) -> TextReading:
        specials = 2 if self.sentence == "none" else SPECIALS
        told = f"`train.seq_len` {seq_len} is too short for masked_lm: give at least {8 + specials}"
        checks.require(self, seq_len >= 8 + specials, told)
        if self.sentence == "none":
            return TextReading("windows", seq_len - specials)
        return TextReading("documents", seq_len - specials, others=self.sentence == "nsp")

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
        batch = self.examples({name: values[None] for name, values in record.items()}, [rng], setting)
        return {
            name: {field: values[0] for field, values in value.items()} if name == "inputs" else value[0]
            for name, value in batch.items()
        }

    def examples(self, records: Record, rngs: Sequence[np.random.Generator], setting: Setting) -> dict[str, Any]:
        vocabulary = setting.vocabulary
        rows = self._windows(records, setting) if self.sentence == "none" else self._pairs(records, rngs, setting)
        places, used, begins, ends = self._choose(rows, rngs, setting)
        # A span of SpanBERT's has one fate, in the other ways each token has its own.
        together = np.cumsum(np.diff(begins, axis=1, prepend=-1) > 0, axis=1) - 1 if self.choose == "spans" else None
        hidden = corrupt(rows.tokens, places, used, together, vocabulary, rngs)

        def slots(values: np.ndarray) -> np.ndarray:
            return np.where(used, values, 0).astype(np.int32)

        inputs = {"tokens": hidden, "positions": rows.positions, "segment_ids": rows.segment_ids}
        inputs["masked_positions"] = slots(places)
        if rows.token_types is not None:
            inputs["token_types"] = rows.token_types
        if self.boundary:
            inputs["boundary_left"] = slots(begins - 1)
            inputs["boundary_right"] = slots(ends)
            inputs["boundary_offset"] = slots(places - begins)
        examples = {
            "inputs": inputs,
            "targets": slots(np.take_along_axis(rows.tokens, places, axis=1)),
            "weights": used.astype(np.float32),
        }
        if rows.sentence_targets is not None:
            examples["sentence_targets"] = rows.sentence_targets
        return examples

    def _choose(self, rows: _Rows, rngs: Sequence[np.random.Generator], setting: Setting) -> _Chosen:
        vocabulary, slots = setting.vocabulary, budget(self.rate, setting.seq_len)
        filled = rows.segment_ids > 0
        maskable = filled & ~vocabulary.is_special[rows.tokens]
        counts = [budget(self.rate, tokens) for tokens in filled.sum(axis=1).tolist()]
        if self.choose == "tokens":
            places, used = choose_tokens(maskable, counts, slots, rngs)
            return _Chosen(places, used, places, places + 1)
        starts = begins_word(rows.tokens, maskable, vocabulary)
        places, begins, ends = np.zeros((3, len(maskable), slots), int)
        used = np.zeros(places.shape, bool)
        for row, (count, rng) in enumerate(zip(counts, rngs, strict=True)):
            if self.choose == "words":
                hidden = choose_words(maskable[row], starts[row], count, rng)
                spans = hidden, hidden + 1
            else:
                shares = ALBERT if self.choose == "ngrams" else SPANBERT
                chosen = choose_spans(maskable[row], starts[row], count, shares, rng)
                hidden, number = places_of(chosen)
                spans = chosen[number, 0], chosen[number, 1]
            slot = slice(len(hidden))
            places[row, slot], used[row, slot] = hidden, True
            begins[row, slot], ends[row, slot] = spans
        return _Chosen(places, used, begins, ends)

    def _windows(self, records: Record, setting: Setting) -> _Rows:
        """Windows of packed documents; the first and the last get the <s> and </s> that lie outside the window."""
        vocabulary, (count, length) = setting.vocabulary, records["tokens"].shape
        numbers, filled = np.arange(count), (records["segment_ids"] > 0).sum(axis=1)
        last = np.maximum(filled - 1, 0)
        begins = (filled > 0) & (records["tokens"][:, 0] != vocabulary.bos)
        unended = (filled > 0) & (records["tokens"][numbers, last] != vocabulary.eos)
        tokens = np.full((count, setting.seq_len), vocabulary.pad, np.int32)
        segment_ids = np.zeros_like(tokens)
        for shift in (0, 1):
            which = np.flatnonzero(begins == shift)
            segments = records["segment_ids"][which]
            segment_ids[which, shift : shift + length] = segments
            tokens[which, shift : shift + length] = np.where(segments, records["tokens"][which], vocabulary.pad)
        tokens[begins, 0], segment_ids[begins, 0] = vocabulary.bos, records["segment_ids"][begins, 0]
        ends = (filled + begins)[unended]
        tokens[unended, ends] = vocabulary.eos
        segment_ids[unended, ends] = records["segment_ids"][numbers, last][unended]
        # Each token's document begins at the last place before it where the segment changes.
        places = np.arange(setting.seq_len, dtype=np.int32)
        first = np.zeros_like(tokens)
        first[:, 1:] = np.where(segment_ids[:, 1:] != segment_ids[:, :-1], places[1:], 0)
        positions = (places - np.maximum.accumulate(first, axis=1)) * (segment_ids > 0)
        return _Rows(tokens, segment_ids, positions)

    def _pairs(self, records: Record, rngs: Sequence[np.random.Generator], setting: Setting) -> _Rows:
        shape = len(rngs), setting.seq_len
        tokens, segment_ids, token_types = np.zeros((3, *shape), np.int32)
        targets = np.zeros(len(rngs), np.int32)
        if self.sentence != "none":
            for row in np.flatnonzero(records["segment_ids"].any(axis=1)).tolist():
                record = {name: values[row] for name, values in records.items()}
                pair = make_pair(self.sentence, record, setting.vocabulary, rngs[row])
                joined = join_pair(pair, setting.seq_len, setting.vocabulary)
                tokens[row], segment_ids[row], token_types[row] = joined
                targets[row] = pair.target
        positions = np.arange(setting.seq_len, dtype=np.int32) * segment_ids
        return _Rows(tokens, segment_ids, positions, token_types, targets)

    def loss(self, outputs: Any, batch: Mapping[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
        """Returns the sums over the hidden tokens; `nll` and `accuracy` are the masked language model's alone.

        SpanBERT's boundary loss is added token by token. A row's sentence loss weighs as much as its hidden tokens, so
        that with as many in each row the loss is the mean over tokens plus the mean over rows.
        """
        loss_sum, weight, metrics = super().loss(outputs, batch)
        if self.boundary:
            checks.require(self, outputs.boundary is not None, "`boundary`: this model has no boundary head")
            boundary_sum, _, boundary_metrics = super().loss(outputs.boundary, batch)
            loss_sum += boundary_sum
            metrics |= {f"boundary_{name}": boundary_metrics[name] for name in ("nll", "accuracy")}
        if self.sentence != "none":
            able = outputs.sentence_B2 is not None
            checks.require(self, able, f"`sentence` {self.sentence}: this model has no head for sentences")
            weights_B = batch["weights"].sum(axis=1)
            targets_B = batch["sentence_targets"]
            scores_B2 = jax.nn.log_softmax(outputs.sentence_B2.astype(jnp.float32))
            nll_B = -jnp.take_along_axis(scores_B2, targets_B[:, None], axis=1)[:, 0]
            right_B = (scores_B2.argmax(axis=1) == targets_B).astype(jnp.float32)
            sentence_sum = (weights_B * nll_B).sum()
            loss_sum += sentence_sum
            metrics |= {"sentence_nll": sentence_sum, "sentence_accuracy": (weights_B * right_B).sum()}
        return loss_sum, weight, metrics
