"""Conversations in a JSONL file, one a line: `messages`, or a `prompt` and its `completion`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from transformer.data.text.lines import text_lines
from transformer.data.text.readers import is_jsonl
from transformer.errors import UserError
from transformer.tokenizers.chat import ASSISTANT, Message, check_messages


class Conversation(NamedTuple):
    """A conversation of a file."""

    where: str
    """The file and the line, for messages to people."""
    messages: list[Message]

    @property
    def question(self) -> list[Message]:
        """All up to the last answer, where the conversation ends with it; else all."""
        return self.messages[:-1] if self.messages[-1]["role"] == ASSISTANT else self.messages

    @property
    def answer(self) -> str:
        """The last answer; UserError where the conversation does not end with one."""
        if self.messages[-1]["role"] != ASSISTANT:
            raise UserError(f"{self.where}: the conversation does not end with an answer of the assistant")
        return self.messages[-1]["content"]


def conversations(path: Path) -> Iterator[Conversation]:
    """Yields the conversations of a .jsonl file (also .ndjson and .json with an object a line; .gz, .zst), in order.

    Blank lines are passed over.

    Raises:
      UserError: the file cannot be read, or a line is no conversation; it names the line.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file: give a .jsonl file with a conversation a line")
    if not is_jsonl(path):
        raise UserError(f"{path}: conversations are read from .jsonl files, one a line, with a list of messages")
    for number, line in enumerate(text_lines(path), 1):
        if line.strip():
            yield _parsed(line, f"{path}, line {number}")


def _parsed(line: str, where: str) -> Conversation:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({error})") from None
    if not isinstance(row, dict):
        raise UserError(f"{where}: not a JSON object")
    if "messages" in row:
        return Conversation(where, check_messages(row["messages"], where))
    if "prompt" in row and "completion" in row:
        said = [*_said(row["prompt"], "user"), *_said(row["completion"], ASSISTANT)]
        return Conversation(where, check_messages(said, where))
    fields = ", ".join(map(repr, sorted(row))) or "none"
    raise UserError(f"{where}: neither messages nor a prompt and its completion; its fields are {fields}")


def _said(value: Any, role: str) -> list[Any]:
    """Returns one side of a pair as messages: a text is one of them, a list is some already."""
    return value if isinstance(value, list) else [{"role": role, "content": value}]
