"""Values that a module shows to whoever asks for them, by making their collection mutable; to all others nothing."""

from typing import Any

import flax.linen as nn


def show(module: nn.Module, collection: str, name: str, value: Any) -> None:
    """Keeps a value in one of the module's collections, if that is mutable; not while parameters are made."""
    if not module.is_initializing():
        module.sow(collection, name, value, reduce_fn=_last, init_fn=_nothing)


def _last(before: Any, new: Any) -> Any:
    del before
    return new


def _nothing() -> None:
    return None
