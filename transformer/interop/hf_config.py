"""config.json, both ways: a field is mapped to ours, pinned to the one value that we compute, or does not matter."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from transformer.errors import UserError

ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
"""Theirs -> ours; the first of several names is the one written."""

HARMLESS = frozenset(
    {
        "t",
        "_name_or_path",
        "architectures",
        "bos_token_id",
        "chunk_size_feed_forward",
        "dtype",
        "eos_token_id",
        "finetuning_task",
        "id2label",
        "initializer_range",
        "is_decoder",
        "is_encoder_decoder",
        "keys_to_ignore_at_inference",
        "label2id",
        "model_type",
        "name_or_path",
        "num_labels",
        "output_attentions",
        "output_hidden_states",
        "output_past",
        "pad_token_id",
        "problem_type",
        "return_dict",
        "return_dict_in_generate",
        "sep_token_id",
        "task_specific_params",
        "tokenizer_class",
        "torch_dtype",
        "transformers_version",
        "use_cache",
        "gradient_checkpointing",
        # Of generation, before it had a file of its own.
        "bad_words_ids",
        "begin_suppress_tokens",
        "diversity_penalty",
        "do_sample",
        "early_stopping",
        "encoder_no_repeat_ngram_size",
        "force_bos_token_to_be_generated",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "length_penalty",
        "max_length",
        "min_length",
        "no_repeat_ngram_size",
        "num_beam_groups",
        "num_beams",
        "num_return_sequences",
        "output_scores",
        "prefix",
        "repetition_penalty",
        "suppress_tokens",
        "temperature",
        "top_k",
        "top_p",
        "typical_p",
    }
)
"""Fields of every config that change neither weights nor scores: bookkeeping, generation, the output's format."""


@dataclasses.dataclass(frozen=True)
class Field:
    """A field of a config.json and the field of ours that it is."""

    theirs: str
    ours: str
    """Several of theirs may share one of ours: they must then be equal, and all are written."""
    default: Any = ...
    """Transformers' own, where a config leaves the field out; `...`: it may not."""
    values: Mapping[Any, Any] | None = None
    """Their values -> ours, where they differ; any other is refused."""


def read(
    config: Mapping[str, Any],
    fields: Sequence[Field],
    *,
    pinned: Mapping[str, Any],
    harmless: Collection[str] = (),
) -> dict[str, Any]:
    """Returns our fields' values.

    Args:
      config: config.json.
      fields: what is mapped.
      pinned: field of theirs -> the only value that is supported, which is also Transformers' default.
      harmless: further fields of this family that change nothing.

    Raises:
      UserError: a missing or unknown field, or a value that is not supported, by name.
    """
    for field, value in pinned.items():
        if field in config and config[field] != value:
            raise UserError(f"config.json: {field} = {config[field]!r} is not supported, only {value!r}")
    unknown = sorted(config.keys() - {f.theirs for f in fields} - pinned.keys() - HARMLESS - set(harmless))
    if unknown:
        raise UserError(f"config.json: unknown fields, which may change the model: {', '.join(unknown)}")
    missing = sorted(field.theirs for field in fields if field.default is ... and field.theirs not in config)
    if missing:
        raise UserError(f"config.json: missing {', '.join(missing)}")
    ours: dict[str, Any] = {}
    for field in fields:
        value = config.get(field.theirs, field.default)
        if field.values is not None:
            if value not in field.values:
                known = ", ".join(map(str, field.values))
                raise UserError(f"config.json: {field.theirs} = {value!r} is not supported, only {known}")
            value = field.values[value]
        if field.ours in ours and ours[field.ours] != value:
            same = [f.theirs for f in fields if f.ours == field.ours]
            raise UserError(f"config.json: {', '.join(same)} that differ are not supported")
        ours[field.ours] = value
    return ours


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
