"""Declarations of a folder's files about its tokenizer: its class, its special tokens, its added tokens.

A fact may stand in several files. The file that decides is Hugging Face Transformers 5's choice:

- added tokens: `added_tokens_decoder` of tokenizer_config.json alone, where there is one; else added_tokens.json, and
  over it those of tokenizer.json;
- special tokens: special_tokens_map.json where there is no such `added_tokens_decoder`; else tokenizer_config.json;
- the class: `tokenizer_class` of tokenizer_config.json, else of config.json, else the model type's own.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from transformer.errors import UserError
from transformer.interop.files import read_json

CONFIG, TOKENIZER, JSON = "config.json", "tokenizer_config.json", "tokenizer.json"
ADDED, SPECIALS = "added_tokens.json", "special_tokens_map.json"
NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""Special tokens that have a role, in the order in which those that the vocabulary lacks are added."""

FURTHER = "additional_special_tokens"
GENERIC = "TokenizersBackend"
"""The class that takes a tokenizer.json as it is."""
# The class of a model type whose folder names none; another type's tokenizer is generic.
_OF_MODEL = {
    "albert": "AlbertTokenizer",
    "bart": "RobertaTokenizer",
    "bert": "BertTokenizer",
    "distilbert": "BertTokenizer",
    "gpt2": "GPT2Tokenizer",
    "gpt_neo": "GPT2Tokenizer",
    "marian": "MarianTokenizer",
    "mistral": GENERIC,
    "mt5": "T5Tokenizer",
    "openai-gpt": "OpenAIGPTTokenizer",
    "qwen2": "Qwen2Tokenizer",
    "qwen3": "Qwen2Tokenizer",
    "roberta": "RobertaTokenizer",
    "t5": "T5Tokenizer",
}
_ALWAYS_OWN = ("qwen2",)
"""Model types whose folders are known to name a wrong class."""
_ALIASES = {
    "BartTokenizer": "RobertaTokenizer",
    "DistilBertTokenizer": "BertTokenizer",
    "ElectraTokenizer": "BertTokenizer",
    "PreTrainedTokenizer": GENERIC,
}


@dataclasses.dataclass
class Declared:
    """A folder's declarations, one value for each fact."""

    folder: Path
    kind: str
    """The class in Transformers 5, without `Fast`."""
    options: dict[str, Any]
    """Options of its class other than tokens: do_lower_case, add_prefix_space, extra_ids, ..."""
    specials: dict[str, str | AddedToken | None]
    """Special tokens by role (`NAMES`); where no file names one, it is missing, and its class's default holds."""
    named: dict[str, str | AddedToken]
    """Special tokens with names of their own, such as image_token."""
    extra: list[str | AddedToken] | None
    """Further special tokens; None where no file declares any."""
    added: dict[int, AddedToken]
    """Tokens beside the model's vocabulary, by the ids that files give them."""
    file: dict[str, Any] | None
    """The content of tokenizer.json; None: there is no such file."""

    @property
    def added_from(self) -> str:
        """Name of the file that the added tokens are from."""
        if "added_tokens_decoder" in self.options:
            return TOKENIZER
        return ADDED if (self.folder / ADDED).exists() else JSON


def read_declared(folder: Path) -> Declared:
    """Returns the declarations of a folder's files; raises UserError naming the file that is at fault."""
    config = _json(folder / TOKENIZER)
    file = _json(folder / JSON, whole=True) if (folder / JSON).exists() else None
    if config.get("auto_map"):
        raise UserError(f"{folder / TOKENIZER}: auto_map names code of the folder's own, which is not run")
    kind = _class(folder, config.pop("tokenizer_class", None), file)
    if file is not None:  # its template frames a text
        config.pop("add_bos_token", None)
        config.pop("add_eos_token", None)
    if FURTHER in config and not config.get("extra_special_tokens"):
        config["extra_special_tokens"] = config.pop(FURTHER)
    named = {key: config.pop(key) for key in list(config) if _is_named(key, config[key])}
    if isinstance(config.get("extra_special_tokens"), dict):
        named |= config.pop("extra_special_tokens")
    added: dict[int, AddedToken] = {}
    try:
        if "added_tokens_decoder" in config:
            added = {int(i): AddedToken(**token) for i, token in config["added_tokens_decoder"].items()}
        else:
            _merge_specials(folder, config, named)
            added = _added(folder, config, file)
        tokens = {str(token): token for token in added.values()}
        specials = {name: _token(config.pop(name)) for name in NAMES if name in config}
        extra = config.pop("extra_special_tokens", None)
        if not isinstance(extra, list | None):
            raise TypeError(f"extra_special_tokens {extra!r} is no list")
        return Declared(
            folder=folder,
            kind=kind,
            options=config,
            specials={name: tokens.get(str(token), token) if token else None for name, token in specials.items()},
            named={name: _required(_token(token)) for name, token in named.items()},
            extra=None if extra is None else [_required(_token(token)) for token in extra],
            added=added,
            file=file,
        )
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        files = ", ".join(name for name in (TOKENIZER, SPECIALS, ADDED, JSON) if (folder / name).exists())
        raise UserError(f"{folder}: {files}: a token is not declared as Transformers reads it ({error})") from None


def _class(folder: Path, declared: str | None, file: dict[str, Any] | None) -> str:
    model = _json(folder / CONFIG)
    own = _OF_MODEL.get(model.get("model_type") or "")
    declared = declared or model.get("tokenizer_class")
    if declared is None:
        return own or GENERIC
    declared = declared.removesuffix("Fast")
    if declared == "LlamaTokenizer" and file is not None and "ByteLevel" in json.dumps(file):
        return own if model.get("model_type") in _ALWAYS_OWN and own else GENERIC
    if own is not None and own != declared:
        if own == GENERIC:
            return GENERIC
        if model["model_type"] in _ALWAYS_OWN:
            return own
    return _ALIASES.get(declared, declared)


def _is_named(key: str, value: Any) -> bool:
    return key.endswith("_token") and key not in NAMES and isinstance(value, str | AddedToken)


def _merge_specials(folder: Path, config: dict[str, Any], named: dict[str, Any]) -> None:
    """Lets special_tokens_map.json override tokenizer_config.json."""
    for key, value in _json(folder / SPECIALS).items():
        if key == "extra_special_tokens" and isinstance(value, list):
            before = list(config.get(key) or [])
            config[key] = before + [_special(token) for token in value if token not in before]
        elif isinstance(value, dict) and key != "extra_special_tokens":
            config[key] = _special(value)
        else:
            config[key] = value
    if isinstance(config.get("extra_special_tokens"), dict):
        named |= config.pop("extra_special_tokens")
    named |= {key: config.pop(key) for key in list(config) if _is_named(key, config[key])}


def _added(folder: Path, config: Mapping[str, Any], file: Mapping[str, Any] | None) -> dict[int, AddedToken]:
    """Returns the tokens of added_tokens.json, overridden by those of tokenizer.json."""
    specials = {content_of(config[name]) for name in NAMES if config.get(name)}
    specials |= {content_of(token) for token in config.get("extra_special_tokens") or ()}
    added = {
        int(i): AddedToken(token, normalized=token not in specials, special=token in specials)
        for token, i in _json(folder / ADDED).items()
    }
    for token in (file or {}).get("added_tokens", ()):
        added[token["id"]] = AddedToken(**{name: value for name, value in token.items() if name != "id"})
    return added


def _special(token: Any) -> Any:
    return AddedToken(**{**token, "special": True}) if isinstance(token, dict) else token


def content_of(token: Any) -> str:
    """Returns the text of a token, which is a string, an AddedToken, or a file's object for one."""
    return token["content"] if isinstance(token, dict) else token if isinstance(token, str) else token.content


def _token(value: Any) -> str | AddedToken | None:
    """Returns a token from its JSON value: a string, or an object marked by its `__type`."""
    if isinstance(value, dict) and value.get("__type") == "AddedToken":
        return AddedToken(**{name: item for name, item in value.items() if name != "__type"})
    if value is None or isinstance(value, str | AddedToken):
        return value
    raise TypeError(f"{value!r} is neither a string nor an AddedToken")


def _required(token: str | AddedToken | None) -> str | AddedToken:
    if token is None:
        raise TypeError("null is no token")
    return token


def _json(path: Path, *, whole: bool = False) -> dict[str, Any]:
    """Returns a file's JSON object, empty without the file; with `whole` it must be a whole tokenizer."""
    record = read_json(path) if path.exists() else {}
    if whole and not isinstance(record.get("model"), dict):
        raise UserError(f"{path}: not a tokenizer")
    return record
