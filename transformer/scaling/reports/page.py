"""Pieces of a self-contained HTML page. Arguments are plain text; results are HTML."""

import base64
import html
from collections.abc import Iterable, Sequence

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff }
body { max-width: 66rem; margin: 2rem auto; padding: 0 1rem }
h1, h2, h3 { line-height: 1.2 } h2 { margin-top: 2.5rem; border-bottom: 1px solid #bbb }
figure { margin: 1.5rem 0 } img { max-width: 100%; height: auto } figcaption, caption { color: #444; text-align: left }
caption { padding-bottom: .4rem } .wide { overflow-x: auto }
table { border-collapse: collapse; margin: 1rem 0; font-size: .9rem }
th, td { padding: .2rem .7rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top }
td:first-child { white-space: nowrap }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
code { overflow-wrap: anywhere } li.warned { margin: .3rem 0 }
""".strip()


def document(title: str, parts: Iterable[str]) -> str:
    """Returns a page with the given parts, which are HTML."""
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{html.escape(title)}</title>",
            f"<style>{_STYLE}</style>",
            "</head>",
            "<body>",
            "<main>",
            f"<h1>{html.escape(title)}</h1>",
            *parts,
            "</main>",
            "</body>",
            "</html>\n",
        ]
    )


def heading(text: str, level: int = 2) -> str:
    return f"<h{level}>{html.escape(text)}</h{level}>"


def paragraph(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"


def warnings(lines: Iterable[tuple[str, str]]) -> str:
    """Returns a list of codes with their messages."""
    items = [f'<li class="warned"><code>{html.escape(code)}</code>: {html.escape(line)}</li>' for code, line in lines]
    return "\n".join(["<ul>", *items, "</ul>"])


def bullets(lines: Iterable[str]) -> str:
    return "\n".join(["<ul>", *(f"<li>{html.escape(line)}</li>" for line in lines), "</ul>"])


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """Returns a table whose first `words` columns are text, and whose others are numbers."""

    def cell(tag: str, column: int, text: str, scope: str = "") -> str:
        kind = ' class="number"' if column >= words else ""
        return f"<{tag}{kind}{scope}>{html.escape(text)}</{tag}>"

    top = "".join(cell("th", column, text, ' scope="col"') for column, text in enumerate(head))
    body = ["<tr>" + "".join(cell("td", column, text) for column, text in enumerate(row)) + "</tr>" for row in rows]
    title = f"<caption>{html.escape(caption)}</caption>"
    top = f"<thead><tr>{top}</tr></thead>"
    return "\n".join(['<div class="wide"><table>', title, top, "<tbody>", *body, "</tbody></table></div>"])


def figure(png: bytes, alternative: str, caption: str) -> str:
    """Returns a picture embedded in the page.

    Args:
      png: the picture.
      alternative: description of the picture for screen readers.
      caption: how to read it.
    """
    data = base64.b64encode(png).decode()
    picture = f'<img src="data:image/png;base64,{data}" alt="{html.escape(alternative)}">'
    return f"<figure>{picture}\n<figcaption>{html.escape(caption)}</figcaption></figure>"
