"""Words of Python code that are tagged where they define something: a class and its bases, a function, an argument and
its default. Exact, as `ast` tells them."""

import ast
import io
import tokenize
from collections.abc import Iterator
from typing import NamedTuple

from transformer.data.examples.source_code import Lines

_WORDS = 24
"""Words of an example, about: lines are added until it has so many."""
_MOST = 64
"""Words of a line, at most; longer ones, mostly tables, are left out."""
_LAYOUT = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER,
}  # fmt: skip


class _Entity(NamedTuple):
    """What stands between two places of a file, each a line and a character."""

    kind: str
    start: tuple[int, int]
    end: tuple[int, int]


def definitions(tree: ast.Module, text: str) -> Iterator[dict[str, object]]:
    """Yields some lines of a file at a time, where they define anything: `tokens`, and `tags` in BIO."""
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    except (tokenize.TokenError, SyntaxError):
        return
    tags = _tags(tokens, sorted(_entities(tree, Lines(text), tokens), key=lambda each: each.start))
    words: list[str] = []
    told: list[str] = []
    line: list[int] = []
    for number, token in enumerate(tokens):
        if token.type not in _LAYOUT and token.string.strip():
            line.append(number)
        if token.type in (tokenize.NEWLINE, tokenize.ENDMARKER):
            if len(line) <= _MOST:
                words += [_shown(tokens[each]) for each in line]
                told += [tags[each] for each in line]
            line = []
            if len(words) >= _WORDS or (words and token.type == tokenize.ENDMARKER):
                if any(tag != "O" for tag in told):
                    yield {"tokens": words, "tags": told}
                words, told = [], []


def _entities(tree: ast.Module, lines: Lines, tokens: list[tokenize.TokenInfo]) -> Iterator[_Entity]:
    places = {token.start: number for number, token in enumerate(tokens)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            number = places[lines.start(node)]
            while tokens[number].string in ("async", "def", "class"):
                number += 1
            kind = "CLASS" if isinstance(node, ast.ClassDef) else "FUNCTION"
            yield _Entity(kind, tokens[number].start, tokens[number].end)
        if isinstance(node, ast.ClassDef):
            for base in node.bases:
                yield _Entity("BASE", lines.start(base), lines.end(base))
        if isinstance(node, ast.arg):
            start = lines.start(node)
            yield _Entity("ARGUMENT", start, (start[0], start[1] + len(node.arg)))
        if isinstance(node, ast.arguments):
            for default in (*node.defaults, *node.kw_defaults):
                if default is not None:
                    yield _Entity("DEFAULT", lines.start(default), lines.end(default))


def _tags(tokens: list[tokenize.TokenInfo], entities: list[_Entity]) -> list[str]:
    """Returns a tag a token; of what stands inside of something else, that of the outer one."""
    tags, ahead = ["O"] * len(tokens), iter(entities)
    entity = next(ahead, None)
    begun = False
    for number, token in enumerate(tokens):
        while entity is not None and token.start >= entity.end:
            outer, entity, begun = entity, next(ahead, None), False
            while entity is not None and entity.start < outer.end:
                entity = next(ahead, None)
        if entity is not None and token.start >= entity.start and token.type not in _LAYOUT:
            tags[number] = f"{'I' if begun else 'B'}-{entity.kind}"
            begun = True
    return tags


def _shown(token: tokenize.TokenInfo) -> str:
    """Returns a word of code: a long string is cut short, and one of several lines too."""
    text = " ".join(token.string.split())
    return text if len(text) <= 24 else f"{text[:20]}...{text[-1]}"
