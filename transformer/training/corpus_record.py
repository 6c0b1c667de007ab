"""`data.json`: which corpus a run is on, by its content, so that it does not go on with another one without a word."""

from collections.abc import Mapping
from typing import Any

from transformer.data.config import DataConfig
from transformer.data.prepare import Corpora
from transformer.errors import UserError

NAME = "data.json"
FIELDS = ("data.path", "data.tfds", "data.mixture", "data.text_field", "data.fields", "data.header")
"""Fields of an experiment that name its corpus."""


def record_of(config: DataConfig, corpus: Corpora) -> dict[str, Any]:
    """Returns what identifies a corpus: JSON values."""
    return {
        "sources": dict(corpus.fingerprints),
        "validation_fraction": config.validation_fraction,
        "tokenizer": corpus.tokenizer.fingerprint,
    }


def differences(recorded: Mapping[str, Any], now: Mapping[str, Any], config: DataConfig) -> list[str]:
    """Returns in what a corpus is another than the one recorded, a line a field.

    A source is known by its name; one that got another name, by its place.
    """
    old, new = recorded.get("sources", {}), now["sources"]
    renamed = [fingerprint for name, fingerprint in old.items() if name not in new]
    lines = []
    for name, fingerprint in new.items():
        before = old[name] if name in old else (renamed.pop(0) if renamed else None)
        if before == fingerprint:
            continue
        if before is None:
            lines.append(f"{_field(name, config)}: it is no source of the corpus that this run began with")
        else:
            lines.append(
                f"{_field(name, config)}: its content is another than when this run began (recorded fingerprint "
                f"{before[:12]}, now {fingerprint[:12]})"
            )
    if renamed:
        lines.append(f"data.mixture: {len(renamed)} of the sources that this run began with are missing")
    if recorded.get("tokenizer") != now["tokenizer"]:
        lines.append("the tokenizer gives other ids than when this run began")
    return lines


def check(recorded: Mapping[str, Any], now: Mapping[str, Any], config: DataConfig) -> list[str]:
    """Returns the differences, where `--data.changed` says that they are meant.

    Raises:
      UserError: there are some, and it does not.
    """
    lines = differences(recorded, now, config)
    if lines and not config.changed:
        raise UserError(
            f"{'; '.join(lines)}: what was validation text may be trained on now; restore the corpus, or say that it "
            "is meant: --data.changed True"
        )
    return lines


def _field(name: str, config: DataConfig) -> str:
    field = "mixture" if config.mixture else ("path" if config.path is not None else "tfds")
    return f"data.{field} {name.removeprefix('tfds:') if field == 'tfds' else name}"
