"""`data.json`: which data a run is on, by their content, so that it does not go on with others without a word."""

from collections.abc import Mapping
from typing import Any

from transformer.data.dataset import DataConfig
from transformer.errors import UserError

NAME = "data.json"


def differences(recorded: Mapping[str, Any], now: Mapping[str, Any], config: DataConfig) -> list[str]:
    """Returns in what a dataset is another than the one recorded, a line a field.

    A source is known by its name; one that got another name, by its place.

    Args:
      recorded: the `About.identity` of then.
      now: that of today.
      config: today's.
    """
    old, new = recorded.get("sources", {}), now["sources"]
    renamed = [fingerprint for name, fingerprint in old.items() if name not in new]
    lines = []
    for name, fingerprint in new.items():
        before = old[name] if name in old else (renamed.pop(0) if renamed else None)
        if before == fingerprint:
            continue
        if before is None:
            lines.append(f"{config.flag(name)}: it is no source of the corpus that this run began with")
        else:
            lines.append(
                f"{config.flag(name)}: its content is another than when this run began (recorded fingerprint "
                f"{before[:12]}, now {fingerprint[:12]})"
            )
    if renamed:
        lines.append(f"data.mixture: {len(renamed)} of the sources that this run began with are missing")
    if recorded.get("tokenizer") != now.get("tokenizer"):
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
