"""Questions about functions of Python's source: what the default of an argument is. Exact, as `ast` tells it."""

import ast
from collections.abc import Iterator

from transformer.data.examples.source_code import Lines

_LINES = 12
"""Lines of a function that are a context, at most."""
_ASKED = 2
"""Arguments of a function that are asked for, at most; and one more that has no default."""


def defaults(tree: ast.Module, text: str) -> Iterator[dict[str, object]]:
    """Yields `question`, `context` (the beginning of a function) and `answers`; none of an argument without default."""
    lines = Lines(text)
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        first = node.lineno
        shown = lines.lines[first - 1 : min(node.end_lineno or first, first + _LINES - 1)]
        context, asked = "".join(shown).rstrip(), 0
        with_default, without = _arguments(node.args)
        for name, default in with_default[:_ASKED]:
            (line, column), (last, end) = lines.start(default), lines.end(default)
            if last >= first + len(shown):
                continue
            start = sum(map(len, shown[: line - first])) + column
            stop = sum(map(len, shown[: last - first])) + end
            answer = {"text": context[start:stop], "answer_start": start}
            yield {"question": _asked(name), "context": context, "answers": [answer]}
            asked += 1
        if asked and without:
            yield {"question": _asked(without[-1]), "context": context, "answers": []}


def _asked(name: str) -> str:
    return f"What is the default of `{name}`?"


def _arguments(arguments: ast.arguments) -> tuple[list[tuple[str, ast.expr]], list[str]]:
    """Returns the names of arguments with their defaults, and of those without one, but for self and cls."""
    plain = [*arguments.posonlyargs, *arguments.args]
    filled = [None] * (len(plain) - len(arguments.defaults)) + arguments.defaults
    pairs = [*zip(plain, filled, strict=True), *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    named = [(argument.arg, default) for argument, default in pairs]
    without = [name for name, default in named if default is None and name not in ("self", "cls")]
    return [(name, default) for name, default in named if default is not None], without
