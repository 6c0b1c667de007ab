"""A JAX/Flax training system for Transformers: architectures apart from weights, any mesh, exact restores."""

import typing

if typing.TYPE_CHECKING:
    from transformer.tasks.pipeline import pipeline

__all__ = ["pipeline"]


def __getattr__(name: str) -> typing.Any:
    """Returns `pipeline`, which takes JAX to import: nothing else here does."""
    if name != "pipeline":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from transformer.tasks.pipeline import pipeline

    return pipeline
