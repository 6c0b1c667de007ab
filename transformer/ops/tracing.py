"""Settings of what is being traced, which go neither through modules' arguments nor into what they are."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")


@contextlib.contextmanager
def within(setting: ContextVar[T], value: T) -> Iterator[None]:
    """Within, a setting has a value; after it, the one that it had before."""
    token = setting.set(value)
    try:
        yield
    finally:
        setting.reset(token)
