"""Settings of generation in a folder in the Hugging Face format, with the meanings that `generate` gives them."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from transformer.errors import UserError
from transformer.interop.files import read_json
from transformer.interop.folder import CONFIG

FILE = "generation_config.json"


def read(folder: epath.PathLike) -> tuple[str, dict[str, Any], tuple[str, ...]]:
    """Returns the file that decides, the settings it declares, and the settings that are not applied here, in words.

    As in Transformers 5: where there is a generation_config.json, it alone decides, and fields of generation in
    config.json do not count; where there is none, those of config.json do. `task_specific_params` never do.

    Args:
      folder: the folder, or the files of one that an import has kept.

    Raises:
      UserError: a file that is not JSON, or a setting of a wrong type, by file and name.
    """
    folder = epath.Path(folder)
    source = FILE if (folder / FILE).exists() else CONFIG
    fields = {name: value for name, value in read_json(folder / source).items() if value is not None}
    if source == CONFIG:
        if fields.pop("force_bos_token_to_be_generated", False):
            fields["forced_bos_token_id"] = fields.get("bos_token_id")
        fields = {name: value for name, value in fields.items() if name in _READERS or name in _NOT_APPLIED}
    declared, not_applied = checked(fields, str(folder / source))
    return source, declared, (*not_applied, *_left_out(fields, declared.get("do_sample", False)))


def checked(fields: Mapping[str, Any], where: str) -> tuple[dict[str, Any], list[str]]:
    """Returns the fields that are applied, as what they stand for, and those of a kind that is not applied, in words.

    Args:
      fields: by `generate`'s names; others than it applies here are left out.
      where: what holds them, for messages.

    Raises:
      UserError: a setting of a wrong type, by name.
    """
    declared, not_applied = {}, []
    for name, value in fields.items():
        if name in _READERS:
            try:
                declared[name] = _READERS[name](value)
            except _Unsupported:
                not_applied.append(f"{name} {json.dumps(value)}")
            except (TypeError, ValueError) as error:
                raise UserError(f"{where}: {name} is {_shown(value)}: it must be {error}") from error
    return declared, not_applied


def _shown(value: Any) -> str:
    try:
        return json.dumps(value)
    except TypeError:  # of a call, and not of a file
        return repr(value)


def _left_out(fields: Mapping[str, Any], draws: bool) -> list[str]:
    """Returns the settings that would change the text under `generate` and do not here, in words."""
    left = []
    for name, value in fields.items():
        neutral = value is False or value in ([], {}) or name.startswith("_")
        if name in _READERS or name in _HARMLESS or neutral or (name in _NOT_APPLIED and value == _NOT_APPLIED[name]):
            continue
        if name in _FILTERS and not draws:  # these matter only when drawing
            continue
        left.append(f"{name} {json.dumps(value)}")
    if draws and fields.get("num_beams", 1) > 1:
        left.append("do_sample true (with num_beams: the search takes the best, and draws none)")
    return left


class _Unsupported(Exception):
    """A value of a kind that `generate` supports and this system does not."""


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("a number")
    return float(value)


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TypeError("a whole number, 0 or above")
    return value


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("true or false")
    return value


def _ids(value: Any) -> tuple[int, ...]:
    """Returns token ids without negative ones, which match nothing under `generate`."""
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(token, int) and not isinstance(token, bool) for token in values):
        raise TypeError("a token id or a list of them")
    return tuple(token for token in values if token >= 0)


def _start(value: Any) -> int:
    if isinstance(value, list):  # a token for each row of a batch
        raise _Unsupported
    return _integer(value)


def _words(value: Any) -> tuple[tuple[int, ...], ...]:
    if not isinstance(value, list) or not all(isinstance(word, list) and word for word in value):
        raise TypeError("a list of lists of token ids")
    return tuple(tuple(_integer(token) for token in word) for word in value)


def _biases(value: Any) -> tuple[tuple[tuple[int, ...], float], ...]:
    if not isinstance(value, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        raise TypeError("a list of [token ids, bias]")
    return tuple((word, _number(bias)) for [word], bias in ((_words([tokens]), bias) for tokens, bias in value))


def _decay(value: Any) -> tuple[int, float]:
    if not isinstance(value, list) or len(value) != 2:
        raise TypeError("[start, factor]")
    return _integer(value[0]), _number(value[1])


def _stopping(value: Any) -> bool | str:
    return value if value == "never" else _boolean(value)


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "eos_token_id": _ids,
    "bos_token_id": _ids,  # what an encoder-decoder starts with where no decoder_start_token_id is declared
    "decoder_start_token_id": _start,
    "max_length": _integer,
    "max_new_tokens": _integer,
    "min_length": _integer,
    "min_new_tokens": _integer,
    "do_sample": _boolean,
    "temperature": _number,
    "top_k": _integer,
    "top_p": _number,
    "min_p": _number,
    "num_beams": _integer,
    "length_penalty": _number,
    "early_stopping": _stopping,
    "num_return_sequences": _integer,
    "sequence_bias": _biases,
    "encoder_repetition_penalty": _number,
    "repetition_penalty": _number,
    "no_repeat_ngram_size": _integer,
    "encoder_no_repeat_ngram_size": _integer,
    "bad_words_ids": _words,
    "forced_bos_token_id": _integer,
    "forced_eos_token_id": _ids,
    "remove_invalid_values": _boolean,
    "exponential_decay_length_penalty": _decay,
    "suppress_tokens": _ids,
    "begin_suppress_tokens": _ids,
    "renormalize_logits": _boolean,
}
"""Settings that are applied -> their readers."""

APPLIED = tuple(_READERS)
"""Names of the settings that are applied."""

_FILTERS = {"typical_p": 1.0, "top_h": None, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0}
_NOT_APPLIED: Mapping[str, Any] = {
    **_FILTERS,
    "guidance_scale": 1,
    "penalty_alpha": 0,
    "num_beam_groups": 1,
    "diversity_penalty": 0,
    "constraints": None,
    "force_words_ids": None,
    "dola_layers": None,
    "stop_strings": None,
    "max_time": None,
    "token_healing": False,
    "watermarking_config": None,
}
"""Settings that are not applied -> the value with which they would not change the text."""

_HARMLESS = frozenset(
    {
        "pad_token_id",
        "transformers_version",
        "use_cache",
        "cache_implementation",
        "cache_config",
        "max_cache_len",
        "return_legacy_cache",
        "output_attentions",
        "output_hidden_states",
        "output_scores",
        "output_logits",
        "return_dict_in_generate",
        "compile_config",
        "disable_compile",
        "continuous_batching_config",
        "prefill_chunk_size",
        "low_memory",
        # What `inference.speech` reads itself.
        "alignment_heads",
        "is_multilingual",
        "lang_to_id",
        "max_initial_timestamp_index",
        "no_timestamps_token_id",
        "prev_sot_token_id",
        "task_to_id",
        # How the same tokens are found sooner.
        "is_assistant",
        "num_assistant_tokens",
        "num_assistant_tokens_schedule",
        "assistant_confidence_threshold",
        "assistant_early_exit",
        "assistant_lookbehind",
        "target_lookbehind",
        "prompt_lookup_num_tokens",
        "max_matching_ngram_size",
        "speculation_type",
        "use_mtp",
    }
)
