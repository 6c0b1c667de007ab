"""Reading a Hugging Face config.json: a field is mapped, pinned to the one value we compute, or known not to matter."""

from collections.abc import Collection, Mapping
from typing import Any

from transformer.errors import UserError

# Fields of every Transformers config that change neither weights nor scores: bookkeeping, generation, output format.
_HARMLESS = frozenset(
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
    }
)


def read(
    config: Mapping[str, Any],
    *,
    model_type: str,
    mapped: Mapping[str, Any],
    pinned: Mapping[str, Any],
    harmless: Collection[str],
) -> dict[str, Any]:
    """Returns the mapped fields' values.

    Args:
      config: config.json.
      model_type: what its `model_type` must be.
      mapped: field -> Transformers' own default where a config may leave it out; `...` where it may not.
      pinned: field -> the only value that is supported, which is also Transformers' default.
      harmless: further fields of this family that change nothing.

    Raises:
      UserError: another model type, a missing field, a pinned field of another value, or an unknown field.
    """
    if config.get("model_type") != model_type:
        raise UserError(f"config.json: model_type is {config.get('model_type')!r}, not {model_type!r}")
    for field, value in pinned.items():
        if field in config and config[field] != value:
            raise UserError(f"config.json: {field} = {config[field]!r} is not supported, only {value!r}")
    unknown = sorted(config.keys() - mapped.keys() - pinned.keys() - _HARMLESS - set(harmless))
    if unknown:
        raise UserError(f"config.json: unknown fields, which may change the model: {', '.join(unknown)}")
    missing = sorted(field for field, default in mapped.items() if default is ... and field not in config)
    if missing:
        raise UserError(f"config.json: missing {', '.join(missing)}")
    return {field: config.get(field, default) for field, default in mapped.items()}
