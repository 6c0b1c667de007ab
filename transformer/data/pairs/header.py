"""The first line of a .tsv file of pairs: a pair, or the names of its columns."""

import re
from collections.abc import Sequence

from transformer.errors import UserError

_NAMES = (
    ("source", "target"),
    ("source", "translation"),
    ("src", "tgt"),
    ("src", "trg"),
    ("input", "output"),
    ("input", "target"),
    ("original", "translation"),
    ("question", "answer"),
    ("text", "summary"),
    ("document", "summary"),
    ("article", "summary"),
    ("article", "highlights"),
    ("sentence1", "sentence2"),
)
"""What the two columns of pairs are called."""

# ISO 639-1.
_CODES = frozenset(
    """
    aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz
    ee el en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik
    io is it iu ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml
    mn mr ms mt my na nb nd ne ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd
    se sg si sk sl sm sn so sq sr ss st su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi
    vo wa wo xh yi yo za zh zu
    """.split()  # noqa: SIM905 - a list would be a page long
)
_LANGUAGES = frozenset(
    """
    arabic bengali bulgarian catalan chinese croatian czech danish dutch english estonian finnish french
    german greek hebrew hindi hungarian indonesian italian japanese korean latvian lithuanian norwegian
    persian polish portuguese romanian russian serbian slovak slovenian spanish swedish thai turkish ukrainian
    urdu vietnamese
    """.split()  # noqa: SIM905 - a list would be a page long
)
_FLORES = re.compile(r"[a-z]{3}_[a-z]{4}")  # eng_Latn, in small letters


_LONGEST_WORD = 24
"""Characters; a longer cell is a sentence, in a script without spaces too."""


def find_header(
    line: str, following: str, fields: tuple[str, str] | None, declared: bool | None
) -> tuple[int, int] | None:
    """Returns the columns of source and target that the first line of a .tsv file names; None where it is a pair.

    It names them if two of its cells are `fields`, or a known pair of names (source and target, src and tgt, ...), or
    if its first two are two languages (`en` and `de`, `en-US`, `eng_Latn`, `English`), whatever their case. Codes of
    two letters are words too ("to" is "zu" in German): they name columns only where a sentence follows, for in a list
    of words they may be its first pair.

    Args:
      line: without its end.
      following: the line after it, likewise.
      fields: what a person calls the two.
      declared: True or False where a person says whether the line is a header.

    Raises:
      UserError: it is said to be one, and lacks the fields.
    """
    if declared is False:
        return None
    cells = [cell.strip().casefold() for cell in line.split("\t")]
    for source, target in (*([fields] if fields else []), *_NAMES):
        if source.casefold() in cells and target.casefold() in cells:
            return cells.index(source.casefold()), cells.index(target.casefold())
    if declared and fields:
        raise UserError(
            f"--data.fields {' '.join(fields)}: the header has no such columns; it has: {_listed(line.split(chr(9)))}."
        )
    languages = len(cells) >= 2 and cells[0] != cells[1] and all(map(_is_language, cells[:2]))
    if languages and (not _CODES.issuperset(cells[:2]) or _has_sentence(following)):
        return 0, 1
    return (0, 1) if declared else None


def _listed(cells: Sequence[str]) -> str:
    return ", ".join(cell.strip() for cell in cells)


def _has_sentence(line: str) -> bool:
    cells = [cell.strip() for cell in line.split("\t")[:2]]
    return any(" " in cell or len(cell) > _LONGEST_WORD for cell in cells)


def _is_language(cell: str) -> bool:
    return re.split("[-_]", cell)[0] in _CODES or cell in _LANGUAGES or _FLORES.fullmatch(cell) is not None
