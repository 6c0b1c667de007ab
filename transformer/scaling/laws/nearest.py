"""The nearest of what there is to a name that there is not."""

import difflib
from collections.abc import Sequence


def nearest(name: str, names: Sequence[str]) -> str:
    """Returns a hint: the name that was probably meant, or all of them."""
    near = difflib.get_close_matches(name.lower(), [each.lower() for each in names], 1)
    if near:
        return f"did you mean {next(each for each in names if each.lower() == near[0])}?"
    return f"its columns are: {', '.join(names)}"
