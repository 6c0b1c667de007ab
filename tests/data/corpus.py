"""A small text with words, indentation and figures: enough for a vocabulary of 512."""

import random

_SYLLABLES = ["ba", "ce", "di", "fo", "gu", "la", "me", "ni", "po", "ru", "sa", "te", "vi", "wo", "xu"]


def make_text(lines: int, seed: int = 0) -> str:
    vocabulary = random.Random(0)
    words = ["".join(vocabulary.choices(_SYLLABLES, k=vocabulary.randrange(1, 5))) for _ in range(400)]
    rng = random.Random(seed)
    return "".join(
        "    " * rng.randrange(4) + " ".join(rng.choices(words, k=rng.randrange(1, 8))) + f" = {rng.randrange(100)}\n"
        for _ in range(lines)
    )
