"""The progress bar of whatever takes long with data."""

from typing import Any

import tqdm


def progress_bar(total: int | None, description: str, unit: str, initial: int = 0) -> Any:
    """Returns a bar that goes away when it is done; none where the output is no terminal."""
    return tqdm.tqdm(
        total=total, initial=initial, desc=description, unit=unit, unit_scale=True, leave=False, disable=None
    )
