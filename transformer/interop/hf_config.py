"""config.json, both ways: a field is mapped to ours, pinned to the one value that we compute, or changes nothing.

Rules tell which fields change nothing: a field that Transformers keeps for itself (`_...`), null in a field that it
does not know, a field of `harmless.HARMLESS` or of the family's own list, or a field that repeats another.
"""

import dataclasses
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from transformer.errors import UserError
from transformer.interop.harmless import HARMLESS, INERT

ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
    "silu": "silu",
    "quick_gelu": "quick_gelu",
    "swish": "silu",
}
"""Their names of activations -> ours; the first of several names is the one written."""

_FILLED_IN = ("num_key_value_heads", "head_dim", "num_decoder_layers", "decoder_vocab_size", "max_window_layers")
"""Sizes that Transformers fills in where they are null."""
_LARGEST = 2**31 - 1  # the largest size: an index of 32 bits
_NAMES = {int: "a whole number", float: "a finite number", bool: "true or false", str: "a string", list: "a list",
          dict: "an object"}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Field:
    """A field of a config.json and the field of ours that it maps to."""

    theirs: str
    ours: str
    """Several of theirs may share one of ours: they must then be equal, and all are written."""
    default: Any = ...
    """Transformers' default, where a config leaves the field out; `...`: it may not."""
    values: Mapping[Any, Any] | None = None
    """Their values -> ours, where they differ; any other is refused."""


@dataclasses.dataclass(frozen=True)
class Same:
    """The value of another field, in a list of values that change nothing."""

    theirs: str


@dataclasses.dataclass(frozen=True)
class FieldRules:
    """Rules by which the config.json of a model type is read."""

    fields: Sequence[Field]
    """Fields that are mapped."""
    kinds: Mapping[str, Any]
    """Field of ours -> its type, as annotated: `int | None`."""
    pinned: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Field of theirs -> the only value that is supported, which is also Transformers' default."""
    harmless: Collection[str] = ()
    """Further fields that change nothing, whatever their values."""
    inert: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    """Further field -> the values with which it changes nothing; `Same`: another field's value."""
    spelled: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Field of theirs that the family takes apart itself before it is read here -> its type."""

    @property
    def all_inert(self) -> dict[str, tuple[Any, ...]]:
        """Inert fields of every model type, and of this one."""
        return {**INERT, **self.inert}


def check_kinds(config: Mapping[str, Any], rules: FieldRules) -> None:
    """Checks the types of config.json's fields; null is allowed where it has a meaning.

    Raises:
      UserError: a value of the wrong type, by its field.
    """
    kinds = {field.theirs: rules.kinds[field.ours] for field in rules.fields if field.values is None}
    for name, kind in {**kinds, **rules.spelled}.items():
        stands_for_something = kind not in (int, bool) or name in _FILLED_IN
        if name in config and not (config[name] is None and stands_for_something):
            checked(name, config[name], kind)


def checked(name: str, value: Any, kind: Any) -> Any:
    """Returns a value of config.json of the right type, a whole number as a float where `kind` is float.

    Transformers' own configs refuse the same values: a number in quotes, a size with a decimal point.

    Args:
      name: name of the field.
      value: its JSON value.
      kind: int, float, bool, str, list, dict, or one of them or None; other types are not checked.

    Raises:
      UserError: the value is of another type, not finite, or a whole number too large for a size.
    """
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if value is None and type(None) in kinds:
        return None
    [kind] = [kind for kind in kinds if kind is not type(None)]
    if kind not in _NAMES:
        return value
    if kind is float and isinstance(value, int | float) and type(value) is not bool and -1e308 <= value <= 1e308:
        return float(value)
    if kind is float or type(value) is not kind:
        raise UserError(f"config.json: {name} = {shown(value)} is not {_NAMES[kind]}")
    if isinstance(value, int) and not -_LARGEST <= value <= _LARGEST:
        raise UserError(f"config.json: {name} = {shown(value)} is too large")
    return value


def shown(value: Any) -> str:
    """Returns a value as a short text for messages."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no whole number of thousands of digits
        text = "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:60]}..."


def changes_nothing(name: str, value: Any, config: Mapping[str, Any], rules: FieldRules) -> bool:
    """Whether a field that is neither mapped nor pinned changes neither weights nor scores.

    Args:
      name: name of the field.
      value: its value.
      config: the whole config.json.
      rules: the rules of its model type.
    """
    inert = rules.all_inert
    if name in inert:
        allowed = [_value_of(v, config, rules) if isinstance(v, Same) else v for v in inert[name]]
        return value is None or any(_equal(value, v) for v in allowed)
    return value is None or name.startswith("_") or name in HARMLESS or name in rules.harmless


def _equal(value: Any, other: Any) -> bool:
    return value == other and isinstance(value, bool) == isinstance(other, bool)  # to Python, False is 0


def _value_of(same: Same, config: Mapping[str, Any], rules: FieldRules) -> Any:
    defaults = [field.default for field in rules.fields if field.theirs == same.theirs]
    return config.get(same.theirs, *defaults[:1])


def read(config: Mapping[str, Any], rules: FieldRules) -> dict[str, Any]:
    """Returns the values of our fields from a config.json.

    Raises:
      UserError: a missing or unknown field, or a value that is not supported, by name.
    """
    for name, value in rules.pinned.items():
        if name in config and not _equal(config[name], value):
            raise UserError(f"config.json: {name} = {shown(config[name])} is not supported, only {value!r}")
    _refuse_unknown(config, rules)
    missing = sorted(f.theirs for f in rules.fields if f.default is ... and f.theirs not in config)
    if missing:
        raise UserError(f"config.json: missing {', '.join(missing)}")
    ours: dict[str, Any] = {}
    for field in rules.fields:
        value = config.get(field.theirs, field.default)
        if field.values is None:
            value = checked(field.theirs, value, rules.kinds[field.ours])
        else:
            value = _translated(field, field.values, value)
        if field.ours in ours and ours[field.ours] != value:
            same = [f.theirs for f in rules.fields if f.ours == field.ours]
            raise UserError(f"config.json: {', '.join(same)} that differ are not supported")
        ours[field.ours] = value
    return ours


def _refuse_unknown(config: Mapping[str, Any], rules: FieldRules) -> None:
    mapped = {field.theirs for field in rules.fields}
    unknown = sorted(
        name
        for name in config.keys() - mapped - rules.pinned.keys()
        if not changes_nothing(name, config[name], config, rules)
    )
    for name in unknown:
        if name in (inert := rules.all_inert):
            only = [
                f"{v.theirs}'s {shown(_value_of(v, config, rules))}" if isinstance(v, Same) else repr(v)
                for v in inert[name]
            ]
            raise UserError(f"config.json: {name} = {shown(config[name])} is not supported, only {' or '.join(only)}")
    if unknown:
        raise UserError(f"config.json: unknown fields, which may change the model: {', '.join(unknown)}")


def _translated(field: Field, values: Mapping[Any, Any], value: Any) -> Any:
    for theirs, ours in values.items():
        if _equal(value, theirs):
            return ours
    known = ", ".join(map(str, values))
    raise UserError(f"config.json: {field.theirs} = {shown(value)} is not supported, only {known}")


def write(ours: Mapping[str, Any], fields: Sequence[Field]) -> dict[str, Any]:
    """Returns the mapped part of a config.json from our fields' values: the inverse of `read`.

    Raises:
      UserError: a value that Transformers cannot express.
    """
    theirs = {}
    for field in fields:
        value = ours[field.ours]
        if field.values is not None:
            spellings = [key for key, mapped in field.values.items() if mapped == value]
            if not spellings:
                raise UserError(f"Transformers has no {field.theirs} for {field.ours} = {value!r}")
            value = spellings[0]
        theirs[field.theirs] = value
    return theirs
