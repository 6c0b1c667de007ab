"""Exact match: how often a model's greedy answer to a conversation is the one that the conversation ends with."""

import dataclasses
from collections.abc import Sequence

from transformer.data.chats.conversations import Conversation
from transformer.errors import UserError
from transformer.inference.restored import Restored
from transformer.inference.sampling import Sampling
from transformer.inference.text_generator import TextGenerator


@dataclasses.dataclass(frozen=True)
class Answered:
    """A conversation's last answer, and a model's."""

    question: str
    """The last message before it."""
    wanted: str
    given: str

    @property
    def is_match(self) -> bool:
        """Whether both are the same text, but for spaces and line ends around it."""
        return self.wanted.strip() == self.given.strip()


def answered(
    restored: Restored,
    chats: Sequence[Conversation],
    *,
    max_new_tokens: int = 128,
    batch_size: int = 32,
    progress: bool = False,
) -> list[Answered]:
    """Returns the model's greedy answers to conversations that end with an answer.

    Raises:
      UserError: one does not, or the model answers none.
    """
    if not chats:
        raise UserError("there is no conversation to answer")
    wanted = [chat.answer for chat in chats]  # which refuses those without an answer before any is given
    generated = TextGenerator(restored)(
        [chat.question for chat in chats],
        max_new_tokens=max_new_tokens,
        how=Sampling(temperature=0.0),
        batch_size=batch_size,
        progress=progress,
    )
    questions = [chat.question[-1]["content"] for chat in chats]
    given = [answers[0].text for answers in generated]
    return [Answered(*parts) for parts in zip(questions, wanted, given, strict=True)]
