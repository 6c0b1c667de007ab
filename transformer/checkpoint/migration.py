"""Records that older versions of this program wrote, in the fields of today."""

from typing import Any

_INIT = {"init_from": "path", "init_leaves": "leaves", "init_vocabulary": "vocabulary", "init_positions": "positions"}
"""Fields that stood in the experiment itself -> their names in its `init`."""


def migrated(record: Any) -> Any:
    """Returns the JSON of an experiment in today's fields; anything else is returned as it is."""
    if not isinstance(record, dict) or "init" in record or _INIT.keys().isdisjoint(record):
        return record
    kept = {name: value for name, value in record.items() if name not in _INIT}
    return kept | {"init": {new: record[old] for old, new in _INIT.items() if old in record}}
