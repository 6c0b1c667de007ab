"""A mixture of experts in config.json: its fields there, and our `ExpertsConfig`."""

import dataclasses
import typing
from collections.abc import Collection, Mapping
from typing import Any

from transformer.checks import FieldError
from transformer.errors import UserError
from transformer.interop import hf_config
from transformer.interop.hf_config import Field, FieldRules
from transformer.layers.experts_config import ExpertsConfig

FIELD = Field("experts", "experts")
"""The mixture in a family's fields, once `ExpertsFields.read` has put it together."""


@dataclasses.dataclass(frozen=True)
class ExpertsFields:
    """How a model type spells its mixture of experts."""

    fields: tuple[Field, ...]
    """Fields of theirs and those of `ExpertsConfig` that they are."""
    always: Mapping[str, Any]
    """Fields of `ExpertsConfig` that have one value in the model type."""
    shared: Collection[str] = ()
    """Fields of theirs that the rest of the model reads too."""
    renames: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Another name of a field of theirs -> its name in `fields`."""

    @property
    def spelled(self) -> dict[str, Any]:
        """Field of theirs that `read` takes apart -> its type."""
        kinds = typing.get_type_hints(ExpertsConfig)
        named = {field.theirs: kinds[field.ours] for field in self.fields if field.theirs not in self.shared}
        return named | {other: named[name] for other, name in self.renames.items()}

    def read(self, config: dict[str, Any]) -> dict[str, Any]:
        """Returns a config.json whose fields of experts are put together to one `ExpertsConfig`, in "experts"."""
        if "experts" in config:
            raise UserError("config.json: unknown fields, which may change the model: experts")
        for other, name in self.renames.items():
            if other in config:
                value = config.pop(other)
                if config.setdefault(name, value) != value:
                    raise UserError(f"config.json: {name}, {other} that differ are not supported")
        own = {field.theirs: config[field.theirs] for field in self.fields if field.theirs in config}
        values = hf_config.read(own, FieldRules(self.fields, typing.get_type_hints(ExpertsConfig)))
        try:
            experts = ExpertsConfig(**values, **self.always)
        except FieldError as error:  # it names our fields
            theirs = [field.theirs for field in self.fields if field.ours in error.fields]
            raise UserError(f"config.json: {', '.join(theirs)}: {error}") from error
        return {name: value for name, value in config.items() if name not in own or name in self.shared} | {
            "experts": experts
        }

    def write(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a config.json with the fields of the mixture in place of "experts": the inverse of `read`."""
        experts = config["experts"]
        values = {field.name: getattr(experts, field.name) for field in dataclasses.fields(experts)}
        rest = {name: value for name, value in config.items() if name != "experts"}
        return {**rest, **hf_config.write(values, self.fields)}

    def fits(self, experts: ExpertsConfig | None) -> bool:
        """Whether the model type computes a mixture: all of its tokens reach their experts, and nothing is its own."""
        return (
            experts is not None
            and experts.capacity_factor is None
            and all(getattr(experts, ours) == value for ours, value in self.always.items())
        )
