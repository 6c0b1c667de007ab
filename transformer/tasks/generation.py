"""Generated text: prompts and chats that are continued, and texts that are answered, translated or summed up.

Options are those of `generate` in Hugging Face Transformers, by its names. What a call does not say, an imported folder
declares; what neither says, the task's own defaults do.
"""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from transformer.errors import UserError
from transformer.inference.restored import Restored
from transformer.inference.settings import Settings
from transformer.inference.text_generator import TextGenerator
from transformer.interop import generation
from transformer.interop.convert import ORIGIN
from transformer.interop.folder import CONFIG
from transformer.tasks.task import Task, check_names, text_of
from transformer.tokenizers.chat import ASSISTANT, ChatTemplate, check_messages
from transformer.tokenizers.framing import Length, framed

TRANSLATION = re.compile(r"translation(_\w+_to_\w+)?")


@dataclasses.dataclass(frozen=True)
class GenerationOptions:
    """What a call says: settings of generation by name, and what the pipeline has besides."""

    fields: Mapping[str, Any]
    """Settings of generation, as `interop.generation` reads them."""
    seed: int = 0
    """Seed of the draws: a text's depend on it and on the text's number among the inputs."""
    return_full_text: bool = True
    """Whether a prompt or a chat stands before what continues it."""
    continue_final_message: bool | None = None
    """Whether a chat's last message is continued; None: where that is the assistant's."""
    prefix: str | None = None
    """What comes before each text; None: what an imported folder declares for the task."""
    truncation: bool = False
    """Whether a text to answer that is too long is cut; otherwise it is refused."""

    @classmethod
    def names(cls) -> list[str]:
        """Returns the names of the options that there are."""
        return [*(field.name for field in dataclasses.fields(cls) if field.name != "fields"), *generation.APPLIED]

    @classmethod
    def of(cls, told: Mapping[str, Any], task: str) -> Self:
        """Returns the options that a person told by name; UserError for an unknown name or an impossible value."""
        check_names(told, cls.names(), task)
        own = {name for name in cls.names() if name not in generation.APPLIED}
        settings = {name: value for name, value in told.items() if name not in own}
        given = {name: value for name, value in settings.items() if value is not None}
        fields, not_applied = generation.checked(given, task)
        if not_applied:
            raise UserError(f"{task}: {', '.join(not_applied)} is not supported")
        return cls(fields, **{name: told[name] for name in own if name in told})


class Generation(Task):
    """A model that generates text."""

    options = GenerationOptions
    defaults: ClassVar[Mapping[str, Any]] = {}
    """Settings where neither a call nor an imported folder has them."""
    answering: ClassVar[bool]
    """Whether texts are answered, by an encoder-decoder, rather than continued."""
    task_settings: Mapping[str, Any] = {}
    """What config.json declares for the task (`task_specific_params`), the prefix too."""

    def __init__(self, restored: Restored):
        kind, head = restored.architecture.kind, restored.architecture.head
        wanted = "encoder_decoder" if self.answering else "decoder"
        if (kind, head) != (wanted, "language_model"):
            told = "an encoder-decoder" if self.answering else "a decoder"
            raise UserError(f"{restored.described}: {self.name} needs {told} with the head language_model")
        super().__init__(restored)
        self._generator = TextGenerator(restored)
        origin = restored.record / ORIGIN
        self._declared: dict[str, Any] = generation.read(origin)[1] if origin.exists() else {}

    def settings(self, options: GenerationOptions) -> Settings:
        """Returns the settings of a call: its own, then the task's, then the folder's, then the defaults."""
        task, _ = generation.checked(self.task_settings, CONFIG)
        declared = self._declared | task | dict(options.fields)
        missing = {name: value for name, value in self.defaults.items() if name not in declared}
        if "max_length" in declared:
            missing.pop("max_new_tokens", None)
        if not (declared | missing).get("do_sample"):
            missing.pop("temperature", None)
        merged = declared | missing
        if "max_length" in options.fields and "max_new_tokens" not in options.fields:
            merged.pop("max_new_tokens", None)
        return Settings.of_fields(self.name, merged)

    def generated(
        self, rows: Sequence[Any], options: GenerationOptions, batch_size: int, first: int
    ) -> list[list[str]]:
        """Returns the texts that are generated for each row of tokens, or chat."""
        settings = self.settings(options)
        told = self._generator(rows, settings=settings, seed=options.seed, batch_size=batch_size, first=first)
        if self.restored.objective is not None:  # sentinels are spelled
            return [[each.text for each in texts] for texts in told]
        return [[self.restored.tokenizer.decode(each.tokens) for each in texts] for texts in told]

    def encoded(self, number: int, text: str, options: GenerationOptions) -> list[int]:
        """Returns the tokens of a text as the model reads them."""
        tokens = self._generator.encode(text)
        context = self.restored.architecture.longest_input
        if context is None or len(tokens) <= context:
            return tokens
        if options.truncation and self.restored.objective is None:
            [[row]] = framed(self.restored.tokenizer, [text], Length(context))
            return row.ids.tolist()
        raise UserError(
            f"input {number} has {len(tokens)} tokens and the model reads {context}: shorten it"
            + (", or give truncation=True to leave out the rest" if self.restored.objective is None else "")
        )


class TextGeneration(Generation):
    """A decoder that continues a prompt, or a chat.

    A prompt's answer is a list of dicts with "generated_text", the prompt included. A chat is a list of messages with
    "role" and "content": its "generated_text" is the messages with the assistant's behind them.
    """

    name, answering = "text-generation", False
    defaults: ClassVar = {"max_new_tokens": 256, "do_sample": True, "temperature": 0.7}

    def is_one(self, given: Sequence[Any]) -> bool:
        """A list of messages is one chat."""
        return bool(given) and isinstance(given[0], Mapping)

    def answers(self, inputs: Sequence[Any], options: GenerationOptions, batch_size: int, first: int) -> list[Any]:
        chats = [self._chat(number, given) for number, given in enumerate(inputs, start=first)]
        rows = []
        for number, (given, chat) in enumerate(zip(inputs, chats, strict=True), start=first):
            if chat is None:
                rows.append(self.encoded(number, (options.prefix or "") + given, options))
            elif self.restored.objective is not None and not self._goes_on(chat, options):
                rows.append(chat)  # what ends a turn ends it
            else:
                rows.append(self._encode(chat, options))
        told = self.generated(rows, options, batch_size, first)
        return [
            [{"generated_text": self._whole(given, chat, text, options)} for text in texts]
            for given, chat, texts in zip(inputs, chats, told, strict=True)
        ]

    def _chat(self, number: int, given: Any) -> list[dict[str, Any]] | None:
        """Returns the messages of a chat; None for a prompt."""
        if isinstance(given, str):
            return None
        if not isinstance(given, list | tuple):
            raise UserError(f"input {number} is a {type(given).__name__}: give a text, or a list of messages")
        return check_messages(list(given), f"input {number}")

    def _goes_on(self, chat: list[dict[str, Any]], options: GenerationOptions) -> bool:
        """Whether the last message is continued."""
        told = options.continue_final_message
        return chat[-1]["role"] == ASSISTANT if told is None else told

    def _encode(self, chat: list[dict[str, Any]], options: GenerationOptions) -> list[int]:
        template = ChatTemplate(self.restored.tokenizer)
        if not self._goes_on(chat, options):
            return template.encode(chat)
        text, last = template.render(chat), chat[-1]["content"]
        place = text.rfind(last.strip())
        if place < 0:
            raise UserError("the chat template changes the last message, so that it cannot be continued")
        end = place + len(last.lstrip())
        text = text[:end] if text[place:end] == last.lstrip() else text[: place + len(last.strip())]
        return self.restored.tokenizer.encode_spelled(text).ids.tolist()

    def _whole(self, given: Any, chat: list[dict[str, Any]] | None, text: str, options: GenerationOptions) -> Any:
        """Returns what is generated, behind what it continues where that is wanted."""
        if not options.return_full_text:
            return text
        if chat is None:
            return given + text
        if self._goes_on(chat, options):
            return [*given[:-1], {"role": chat[-1]["role"], "content": chat[-1]["content"] + text}]
        return [*given, {"role": ASSISTANT, "content": text}]


class Text2Text(Generation):
    """An encoder-decoder that answers a text: a dict a text with "generated_text".

    An imported T5's config.json declares, task by task, what comes before a text and how it is answered.
    """

    name, answering, key = "text2text-generation", True, "generated_text"
    defaults: ClassVar = {"max_new_tokens": 256, "num_beams": 4}

    def __init__(self, restored: Restored, name: str | None = None):
        super().__init__(restored)
        self.name = name or type(self).name
        config = restored.record / ORIGIN / CONFIG
        declared = json.loads(config.read_text()) if config.exists() else {}
        for_task = (declared.get("task_specific_params") or {}).get(self.name) or {}
        self._prefix = for_task.get("prefix", declared.get("prefix")) or ""
        self.task_settings = {field: value for field, value in for_task.items() if value is not None}

    def answers(self, inputs: Sequence[Any], options: GenerationOptions, batch_size: int, first: int) -> list[Any]:
        prefix = self._prefix if options.prefix is None else options.prefix
        rows = []
        for number, given in enumerate(inputs, start=first):
            try:
                text = text_of(given)
            except UserError as error:
                raise UserError(f"input {number}: {error}") from None
            rows.append(self.encoded(number, prefix + text, options))
        told = self.generated(rows, options, batch_size, first)
        return [[{self.key: text} for text in texts] for texts in told]

    def listed(self, answers: list[Any]) -> Any:
        """Returns the answers without the lists of one, where each is of one text."""
        return [answer for [answer] in answers] if all(len(each) == 1 for each in answers) else answers


class Translation(Text2Text):
    """A dict a text with "translation_text"."""

    name, key = "translation", "translation_text"


class Summarization(Text2Text):
    """A dict a text with "summary_text"."""

    name, key = "summarization", "summary_text"
