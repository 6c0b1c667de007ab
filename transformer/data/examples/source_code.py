"""Places in Python source as `ast` tells them, as places in its text."""

import ast
import io


class Lines:
    """A file's lines as `ast` numbers them."""

    def __init__(self, text: str):
        self.lines = io.StringIO(text, newline=None).readlines()  # to Python a form feed ends no line

    def column(self, line: int, byte: int) -> int:
        """Returns the character of a line, from 1, that `ast` gives as a byte of its UTF-8."""
        text = self.lines[line - 1]
        return byte if text.isascii() else len(text.encode()[:byte].decode())

    def start(self, node: ast.AST) -> tuple[int, int]:
        """Returns the line, from 1, and the character that a node begins at."""
        line: int = node.lineno  # type: ignore[attr-defined]
        return line, self.column(line, node.col_offset)  # type: ignore[attr-defined]

    def end(self, node: ast.AST) -> tuple[int, int]:
        """Returns the line, from 1, and the character after a node's last one."""
        line: int = node.end_lineno  # type: ignore[attr-defined]
        return line, self.column(line, node.end_col_offset)  # type: ignore[attr-defined]
