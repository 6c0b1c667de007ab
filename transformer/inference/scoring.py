"""BLEU's tokenizers: the one that a text needs, and what is missing to use it."""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from sacrebleu.metrics.bleu import BLEU

from transformer.errors import UserError

BleuTokenizer = Literal["13a", "zh", "ja-mecab", "ko-mecab", "char", "intl", "flores101", "flores200", "none"]
"""sacrebleu's tokenizers."""
_SPACELESS = {"CJK": "zh", "HIRAGANA": "ja-mecab", "KATAKANA": "ja-mecab", "HANGUL": "ko-mecab"} | dict.fromkeys(
    ("THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN"), "char"
)
"""Script that does not separate words by spaces -> the tokenizer for it."""
_KANA = 0.1
"""Share of kana among such letters from which on a text is Japanese; Chinese has none."""


def bleu(tokenizer: BleuTokenizer) -> BLEU:
    """Returns sacrebleu's BLEU with a tokenizer; raises UserError where a package or a model is missing."""
    try:
        return BLEU(tokenize=tokenizer)
    except (RuntimeError, ImportError):
        extra = "ja" if tokenizer == "ja-mecab" else "ko"
        raise UserError(
            f"--bleu-tokenize {tokenizer} needs a package that is not installed: pip install 'sacrebleu[{extra}]'"
        ) from None
    except OSError as error:  # sacrebleu downloads a model once
        raise UserError(f"--bleu-tokenize {tokenizer}: its model could not be downloaded ({error})") from None


def fitting_tokenizer(texts: Sequence[str]) -> BleuTokenizer | None:
    """Returns the tokenizer that texts need in place of 13a, which splits at spaces and punctuation; None: 13a will do.

    They need another if at least half of their letters are of scripts that write no spaces between words, or of Hangul:
    the tokenizer of most of these letters, but the Japanese one as soon as a tenth of them are kana.
    """
    counts: Counter[str] = Counter()
    for letter, count in Counter(unicodedata.normalize("NFKC", "".join(texts))).items():
        if letter.isalpha():
            counts[_SPACELESS.get(unicodedata.name(letter, "").split(" ")[0].split("-")[0], "13a")] += count
    total = counts.total()
    spaceless = total - counts.pop("13a", 0)
    if not total or 2 * spaceless < total:
        return None
    if counts["ja-mecab"] >= _KANA * spaceless:
        return "ja-mecab"
    return counts.most_common(1)[0][0]  # type: ignore[return-value]
