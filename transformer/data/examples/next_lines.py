"""Pieces of Python's source, each with four lines of its file, of which one comes next."""

import random
from collections.abc import Iterator

_BEFORE = 6
"""Lines that are shown."""
_STEP = 12
"""Lines from one piece to the next."""
_LETTERS = 8
"""Letters and digits of a line that can be told from others, at least."""


def next_lines(text: str) -> Iterator[dict[str, object]]:
    """Yields `context`, `choices` and `label`; which lines are wrong choices follows from the text alone."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = sorted({line for line in lines if sum(map(str.isalnum, line)) >= _LETTERS})
    rng = random.Random(text)
    for place in range(_BEFORE, len(lines), _STEP):
        right, shown = lines[place], lines[place - _BEFORE : place]
        others = rng.sample(telling, min(len(telling), 3 + _BEFORE + 1))
        wrong = [line for line in others if line != right and line not in shown][:3]
        if right not in telling or right in shown or len(wrong) < 3:
            continue
        label = rng.randrange(4)
        yield {"context": "\n".join(shown), "choices": [*wrong[:label], right, *wrong[label:]], "label": label}
