"""Chat templates: a conversation as the text, and the tokens, that a model was taught to read.

A template is Jinja source that a tokenizer carries. It is rendered as Hugging Face Transformers'
`apply_chat_template` does: `messages`, `add_generation_prompt` and the special tokens by name are its variables;
`raise_exception`, `strftime_now`, `tojson` and `{% generation %}` are known. It is foreign code, and runs in Jinja's
sandbox.
"""

import datetime
import functools
import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jinja2
import numpy as np
from jinja2 import ext, nodes, sandbox

from transformer.errors import UserError
from transformer.tokenizers.tokenizer import Tokenizer, hash_bytes

Message = dict[str, Any]
"""`role` and `content`, and whatever else a template reads."""

ROLES = ("system", "developer", "user", "assistant", "tool")
ASSISTANT = "assistant"
# Noncharacters, which no text has: they stand around an answer while a conversation is rendered.
_BEGIN, _END = "\ufdd0", "\ufdd1"
_MARK = re.compile(f"([{_BEGIN}{_END}])")
TRAINING_DAY = datetime.datetime(2024, 7, 26)
"""The day that templates are told in training, where examples must not depend on the day; the default of Llama 3's."""


class Turns(NamedTuple):
    """A conversation as tokens."""

    ids: np.ndarray
    """int32[tokens]."""
    is_answer: np.ndarray
    """bool[tokens]: what the assistant says, the special that ends its turn included."""


def check_messages(messages: Any, where: str) -> list[Message]:
    """Returns a conversation without what is null; raises UserError, which says `where`, if it is none.

    Each message is an object with a known role and a content that is not blank; a user says something.
    """
    if not isinstance(messages, list) or not messages:
        raise UserError(f"{where}: the messages are no list with anything in it")
    checked = []
    for number, message in enumerate(messages, 1):
        if not isinstance(message, dict):
            raise UserError(f"{where}: message {number} is no object with a role and a content")
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise UserError(f"{where}: message {number} has the role {role!r}: give one of {', '.join(ROLES)}")
        if not isinstance(content, str):
            raise UserError(f"{where}: message {number} ({role}) has a content that is no text")
        if not content.strip():
            raise UserError(f"{where}: message {number} ({role}) has an empty content")
        checked.append({name: value for name, value in message.items() if value is not None})
    if not any(message["role"] == "user" for message in checked):
        raise UserError(f"{where}: a chat without a user: one of its messages needs the role user")
    return checked


class ChatTemplate:
    """The chat template that a tokenizer carries.

    Args:
      tokenizer: encodes what is rendered, and spells the special tokens that the template names.
      today: the day that a template is told; None: today's.

    Raises:
      UserError: the tokenizer carries no template, or one that is no Jinja.
    """

    def __init__(self, tokenizer: Tokenizer, today: datetime.datetime | None = None):
        if tokenizer.chat_template is None:
            raise UserError(
                "the tokenizer has no chat template: import the model from a folder that has one (chat_template.jinja, "
                "or chat_template in tokenizer_config.json), or fine-tune on chats with --data.template FILE"
            )
        self.tokenizer = tokenizer
        self._day = "" if today is None else today.isoformat()
        environment = sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, ext.loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals |= {
            "raise_exception": _raise,
            "strftime_now": lambda form: (today or datetime.datetime.now()).strftime(form),
            "dict": lambda *pairs, **items: dict(*pairs, **items),  # a class's attributes would lead out of the sandbox
            "namespace": _Namespace,
        }
        try:
            self._template = environment.from_string(tokenizer.chat_template)
        except jinja2.TemplateError as error:
            raise UserError(f"the chat template is not Jinja: {error}") from None
        self.marks_answers = bool(getattr(environment, _Generation.used))
        """Whether the template says itself, by `{% generation %}`, what the assistant says."""

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str:
        """Returns a conversation as text.

        Args:
          messages: the conversation, as `check_messages` returns it.
          add_generation_prompt: whether what begins an answer follows.

        Raises:
          UserError: the template refuses the conversation.
        """
        return _MARK.sub("", self._marked(messages, add_generation_prompt))

    def encode(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> list[int]:
        """Returns the tokens of `render`, by default up to where an answer begins."""
        text = self.render(messages, add_generation_prompt=add_generation_prompt)
        return self.tokenizer.encode_spelled(text).ids.tolist()

    def turns(self, messages: Sequence[Message]) -> Turns:
        """Returns a conversation as tokens, and which of them the assistant says.

        Without `{% generation %}` that is all from where the generation prompt ends, which is before an answer's text,
        to the next special token after it, which ends the turn.

        Raises:
          UserError: the template refuses the conversation, or changes an answer so that it is not found again.
        """
        text, answers = self._answers(messages)
        spans = self.tokenizer.encode_spelled(text)
        is_answer = np.zeros(len(spans.ids), bool)
        for (begin, end), (following, _) in zip(answers, [*answers, (len(text), 0)][1:], strict=True):
            first = int(np.flatnonzero([*(spans.ends > begin), True])[0])
            last = int(np.flatnonzero([True, *(spans.starts < end)])[-1])  # the place after it
            if not self.marks_answers:
                after = self.is_special[spans.ids] & (spans.starts >= end) & (spans.starts < following)
                last = int(np.flatnonzero(after)[0]) + 1 if after.any() else last
            is_answer[first:last] = True
        return Turns(spans.ids, is_answer)

    @property
    def fingerprint(self) -> str:
        """A hash of what decides the text of a conversation, but for today's day."""
        decides = [self.tokenizer.chat_template, self.tokenizer.special_names, self._day]
        return hash_bytes("chat", json.dumps(decides, sort_keys=True).encode())

    def end_of_turn(self) -> int | None:
        """Returns the special token that ends an answer; None if none does, or none is found."""
        try:
            ids, is_answer = self.turns([{"role": "user", "content": "a"}, {"role": ASSISTANT, "content": "b"}])
        except UserError:
            return None
        specials = [token for token in ids[is_answer].tolist() if self.is_special[token]]
        return specials[-1] if specials else None

    @functools.cached_property
    def is_special(self) -> np.ndarray:
        """bool[V]: tokens that stand for no text."""
        return np.array([piece is None for piece in self.tokenizer.pieces()])

    def _answers(self, messages: Sequence[Message]) -> tuple[str, list[tuple[int, int]]]:
        """Returns a conversation as text, and the characters from and to which the assistant speaks."""
        if self.marks_answers:
            return _unmarked(self._marked(messages))
        text, answers = _unmarked(self._marked(list(map(_mark, messages))))
        if len(answers) != sum(message["role"] == ASSISTANT for message in messages) or text != self.render(messages):
            raise UserError(
                "the chat template does not write each answer as it is, so that it is not found again: put "
                "{% generation %} and {% endgeneration %} around answers in it"
            )
        places = [place for place, message in enumerate(messages) if message["role"] == ASSISTANT]
        begins = [self._begin(messages[:place], text, begin) for place, (begin, _) in zip(places, answers, strict=True)]
        return text, [(begin, end) for begin, (_, end) in zip(begins, answers, strict=True)]

    def _begin(self, before: Sequence[Message], text: str, begin: int) -> int:
        """Returns where an answer begins, of which `begin` is the first character that the conversation itself has.

        That is where the prompt ends that a model would be given, unless the template renders what was `before` in
        another way once an answer follows.
        """
        try:
            prompt = self.render(before, add_generation_prompt=True)
        except UserError:
            return begin
        return len(prompt) if len(prompt) <= begin and text.startswith(prompt) else begin

    def _marked(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
        """Returns a conversation as text, with marks around what is in `{% generation %}`."""
        variables = {"messages": messages, "tools": None, "documents": None, **self.tokenizer.special_names}
        try:
            return self._template.render(**variables, add_generation_prompt=add_generation_prompt)
        except Exception as error:  # a template is foreign code, and fails as it likes
            raise UserError(f"the chat template refuses the conversation: {error}") from None


def _mark(message: Message) -> Message:
    """Returns a message with marks around its text, spaces at both ends left out, which templates may strip."""
    if message["role"] != ASSISTANT:
        return message
    content = message["content"]
    text = content.strip()
    return {**message, "content": content.replace(text, f"{_BEGIN}{text}{_END}", 1)}


def _unmarked(marked: str) -> tuple[str, list[tuple[int, int]]]:
    """Returns a text without its marks, and the characters from and to which they stood."""
    text, answers, begin = "", [], None
    for part in _MARK.split(marked):
        if part == _BEGIN:
            begin = len(text)
        elif part == _END:
            answers += [] if begin is None else [(begin, len(text))]
            begin = None
        else:
            text += part
    return text, answers


class _Generation(ext.Extension):
    """`{% generation %}`, around what the assistant says."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it
    used = "has_generation_tags"

    def __init__(self, environment: jinja2.Environment):
        super().__init__(environment)
        environment.extend(**{self.used: False})

    def parse(self, parser: Any) -> nodes.Node:
        setattr(self.environment, self.used, True)
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_around"), [], [], body).set_lineno(line)

    def _around(self, caller: Any) -> str:
        return f"{_BEGIN}{caller()}{_END}"


class _Namespace(jinja2.utils.Namespace):
    """Jinja's namespace, without the names that lead to Python's own."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a chat template cannot set {name!r}")
        super().__setitem__(name, value)


def _raise(message: str) -> None:
    raise jinja2.exceptions.TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
