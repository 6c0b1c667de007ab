"""Text generation: texts that a decoder continues, or that an encoder-decoder answers."""

import dataclasses
import functools
import itertools
import logging
from collections.abc import Sequence
from typing import Any, TypeGuard

from tqdm import tqdm

from transformer.errors import UserError
from transformer.inference import continuous
from transformer.inference.beam_search import BeamSearch
from transformer.inference.decode import generate
from transformer.inference.restored import Restored
from transformer.inference.rows import batches
from transformer.inference.rules import DecodingRules
from transformer.inference.sampling import Sampling
from transformer.inference.settings import Settings
from transformer.inference.speculative import Draft
from transformer.inference.unstacked import for_decoding
from transformer.objectives.chat import Chat
from transformer.objectives.prefix_lm import PrefixLM
from transformer.tokenizers.chat import ChatTemplate, Message
from transformer.tokenizers.spelled import SpelledTokenizer
from transformer.tokenizers.vocabulary import PARADIGMS, Vocabulary

MAX_NEW_TOKENS = 128
"""Default of the most tokens of a text."""


@dataclasses.dataclass(frozen=True)
class GeneratedText:
    """A continuation of a text, or an answer to it."""

    text: str
    """The text without the prompt."""
    score: float | None
    """Score of a beam search (`decode.Generated`); None where drawn or greedy."""
    tokens: list[int]
    """Its tokens."""


class TextGenerator:
    """A language model that continues texts, or answers them.

    Args:
      restored: a decoder or an encoder-decoder, with a head of next words.
      draft: a smaller one, of the same words, that proposes tokens (`speculative`); None: there is none.
      draft_tokens: tokens that the draft proposes at a time.

    Raises:
      UserError: it is another kind of model, or an imported one that declares impossible settings of generation; the
        draft has another tokenizer.
    """

    def __init__(self, restored: Restored, draft: Restored | None = None, draft_tokens: int = 4):
        architecture = restored.architecture
        if architecture.kind == "speech":
            raise UserError(
                f"{restored.checkpoint} is a {architecture.family} model: it writes down sound and reads no text; use "
                "Transcriber, or tools/generate.py --audio FILE"
            )
        if architecture.kind == "encoder" or architecture.head != "language_model":
            raise UserError(
                f"{restored.checkpoint} is a {architecture.family} model with the head {architecture.head}: only "
                "decoders and encoder-decoders with the head language_model generate text"
            )
        self.settings = Settings.of(restored.record)
        """Defaults that an imported model came with; None for a model trained here."""
        if self.settings is not None and self.settings.not_applied:
            left = "; ".join(self.settings.not_applied)
            logging.getLogger(__name__).warning("%s: not applied: %s", self.settings.source, left)
        model, params = for_decoding(architecture, restored.params, restored.execution)
        self.restored = dataclasses.replace(restored, model=model, params=params)
        self._draft = None if draft is None else _proposing(draft, draft_tokens, restored)
        self.answers = architecture.kind == "encoder_decoder"
        """Whether it answers a text, rather than continues it."""
        vocabulary = Vocabulary.of(restored.tokenizer)
        self._sentinels = {token: f"<extra_id_{number}>" for number, token in enumerate(vocabulary.sentinels)}
        specials = {name: token for token, name in self._sentinels.items()}
        specials |= dict(zip(PARADIGMS, vocabulary.paradigms, strict=False))
        if vocabulary.mask_id is not None:
            specials["<mask>"] = vocabulary.mask_id
        self._spelled = SpelledTokenizer(restored.tokenizer, specials)

    def __call__(
        self,
        texts: Sequence[str | Sequence[Message] | Sequence[int]],
        *,
        settings: Settings | None = None,
        max_new_tokens: int | None = None,
        min_new_tokens: int | None = None,
        how: Sampling | BeamSearch | None = None,
        rules: DecodingRules | None = None,
        num: int | None = None,
        seed: int = 0,
        stop: Sequence[str] = (),
        batch_size: int = 32,
        first: int = 0,
        progress: bool = False,
    ) -> list[list[GeneratedText]]:
        """Returns `num` continuations of each text, or answers to it, the best first.

        An argument that is None is taken from `settings`, or else as stated.

        Args:
          texts: the texts, or their tokens as the model reads them, in any order: like lengths are read together. A
            decoder also answers conversations (`tokenizers.chat.check_messages`), by its tokenizer's chat template.
          settings: what stands for arguments that are None; None: what an imported model's folder declares.
          max_new_tokens: the most new tokens of each; else `MAX_NEW_TOKENS`.
          min_new_tokens: the least new tokens of each; else 0.
          how: settings of sampling, or of a beam search; else sampling, or greedy for an imported model.
          rules: rules that change scores before a token is chosen; else none.
          num: number of continuations for each text; else 1.
          seed: seed of sampling: draws depend on a text's place among `texts`, not on the batch.
          stop: pieces that end a text, each a token of the vocabulary, besides the ends that the folder declares, or
            else the tokenizer's own end, and, in answers to conversations, what ends a turn.
          batch_size: number of texts that are read together.
          first: number of the first text, where they are a part of more: draws for it depend on that.
          progress: whether to show a progress bar.

        Raises:
          UserError: a `stop` is no token, and what `decode.generate` raises.
        """
        model, params, settings = self.restored.model, self.restored.params, settings or self.settings
        stop_ids = settings.stop_ids if settings and settings.stop_ids else (self.restored.tokenizer.eos_id,)
        if any(_is_chat(text) for text in texts) and (end := self.template.end_of_turn()) is not None:
            stop_ids = (*stop_ids, end)
        rows: Any = [self.encode(text) if isinstance(text, str) or _is_chat(text) else text for text in texts]
        most, least = self._lengths(settings, rows, max_new_tokens, min_new_tokens)
        options = {
            "how": how or (settings.how if settings else Sampling()),
            "rules": rules or (settings.rules if settings else DecodingRules()),
            "num": num if num is not None else settings.num if settings else 1,
            "stop_ids": [*stop_ids, *map(self._stop_id, stop)],
            "start_id": settings.start_id if settings else None,
            "prefix": isinstance(self.restored.objective, PrefixLM),
            "draft": self._draft,
            "seed": seed,
        }
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]), reverse=True)  # too long ones fail first
        generated: list[list[GeneratedText]] = [[] for _ in rows]
        with tqdm(total=len(rows), unit="text", desc="generate", disable=not progress) as bar:
            if len(rows) > batch_size and self._goes_on_continuously(options):
                numbers = range(first, first + len(rows))
                waiting = [continuous.Text(*text) for text in zip(numbers, rows, most, least, strict=True)]
                chosen = {name: options[name] for name in ("how", "rules", "stop_ids", "seed")}
                for place, tokens in continuous.continued(model, params, waiting, batch_size, **chosen):
                    generated[place] = [GeneratedText(self.decode(tokens), None, tokens)]
                    bar.update()
                return generated
            for chosen, filled in batches(order, batch_size):
                outs = generate(
                    model,
                    params,
                    [rows[index] for index in filled],
                    max_new_tokens=[most[index] for index in filled],
                    min_new_tokens=[least[index] for index in filled],
                    places=[first + index for index in filled],
                    **options,
                )
                for index, out in zip(chosen, outs, strict=False):
                    generated[index] = [GeneratedText(self.decode(row.tokens), row.score, row.tokens) for row in out]
                bar.update(len(chosen))
        return generated

    def _goes_on_continuously(self, options: dict[str, Any]) -> bool:
        """Whether a text's row goes to the next text when it has ended."""
        alone = options["num"] == 1 and options["draft"] is None and not options["prefix"]
        return (
            alone and isinstance(options["how"], Sampling) and continuous.applies(self.restored.model, options["rules"])
        )

    @functools.cached_property
    def template(self) -> ChatTemplate:
        """The tokenizer's chat template; UserError if it has none, or the model answers texts alone."""
        if self.answers:
            raise UserError(
                f"{self.restored.checkpoint} is an encoder-decoder, which answers texts and no conversations"
            )
        return ChatTemplate(self.restored.tokenizer)

    def encode(self, text: str | Sequence[Message]) -> list[int]:
        """Returns the tokens of a text, or of a conversation up to where the answer begins, as in training.

        A text of an imported model, or one that was fine-tuned on chats, is encoded by its folder's tokenizer: framed
        by its template, with specials where the text spells them. Where that gives no token, it is the begin, from
        which Transformers' `generate` starts too.

        A decoder trained here reads the begin of a document first. An encoder-decoder trained here also reads the
        specials of its pretraining where a text spells them: sentinels, <mask>, and the paradigms of UL2.
        """
        if not isinstance(text, str):
            return self.template.encode(text)
        tokenizer = self.restored.tokenizer
        begin, end = [tokenizer.bos_id], [tokenizer.eos_id]
        if self.restored.objective is None or isinstance(self.restored.objective, Chat):
            return tokenizer.encode_framed(text) or begin
        if not self.answers:
            return begin + tokenizer.encode(text)
        return (begin if self.restored.objective.begins_source else []) + self._spelled.encode(text) + end

    def decode(self, tokens: Sequence[int]) -> str:
        """Returns the text of generated tokens; an encoder-decoder's sentinels are spelled out."""
        if not self.answers:
            return self.restored.tokenizer.decode(tokens)
        groups = itertools.groupby(tokens, key=lambda token: self._sentinels.get(token, ""))
        return "".join(name or self.restored.tokenizer.decode(list(group)) for name, group in groups)

    def _lengths(
        self, settings: Settings | None, rows: Sequence[Sequence[int]], most: int | None, least: int | None
    ) -> tuple[list[int], list[int]]:
        """Returns the most and the least new tokens of each row; `most` and `least` of None: as declared."""
        prompt_lengths = [1 if self.answers else len(row) for row in rows]
        declared = settings.max_new(prompt_lengths) if settings and most is None and rows else None
        mosts = declared or [MAX_NEW_TOKENS if most is None else most] * len(rows)
        if settings and least is None:
            return mosts, settings.min_new(prompt_lengths)
        return mosts, [least or 0] * len(rows)

    def _stop_id(self, piece: str) -> int:
        tokenizer = self.restored.tokenizer
        try:
            return tokenizer.special_id(piece)
        except UserError:
            tokens = tokenizer.encode(piece)
        if len(tokens) != 1:
            raise UserError(f"--stop {piece!r} is {len(tokens)} tokens here: give the spelling of one")
        return tokens[0]


def _proposing(draft: Restored, tokens: int, restored: Restored) -> Draft:
    """Returns a model as the draft of another; UserError where their tokenizers differ."""
    own, wanted = draft.tokenizer, restored.tokenizer
    if own.fingerprint != wanted.fingerprint:
        raise UserError(
            f"the draft {draft.checkpoint} has another tokenizer ({own.vocab_size} pieces, fingerprint "
            f"{own.fingerprint[:12]}) than {restored.checkpoint} ({wanted.vocab_size}, {wanted.fingerprint[:12]}): a "
            "draft says the same words"
        )
    return Draft(*for_decoding(draft.architecture, draft.params, draft.execution), tokens)


def _is_chat(text: Any) -> TypeGuard[Sequence[Message]]:
    """Whether what is to be answered is a conversation, and neither a text nor tokens."""
    return not isinstance(text, str) and len(text) > 0 and isinstance(text[0], dict)
