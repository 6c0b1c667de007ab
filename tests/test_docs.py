"""Documentation pages: prose wraps at 100 columns; links and named files lead to files that exist."""

import re
from pathlib import Path

import pytest

from tests.test_imports import LEVEL

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Links to a file of this repository, with an anchor or without.
LINK = re.compile(r"\]\((?!\w+:)([^)#]*)(?:#([^)]*))?\)")
# Source files and folders as the pages name them: in backticks, from the root of the repository or of the package.
FILE = re.compile(r"`((?:transformer|tests|tools|configs|docs)/[\w/.-]*|[\w/-]+/[\w-]+\.py|train\.py)\b")


def prose(page: Path) -> list[tuple[int, str]]:
    """The numbered lines of a page outside tables and code blocks."""
    fenced, indented, lines = False, False, []
    previous = ""
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.startswith("```"):
            fenced = not fenced
        # Four spaces begin a code block after a blank line; the same under a list item is the item's own text.
        indented = line.startswith("    ") and (indented or not previous.strip())
        if not (fenced or indented or line.startswith(("|", "!["))):
            lines.append((number, line))
        previous = line
    return lines


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, spelled as GitHub spells them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_prose_wraps_at_100_columns(page):
    assert [f"{page.name}:{number}" for number, line in prose(page) if len(line) > 100] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target, anchor in LINK.findall(page.read_text()):
        file = page.parent / target if target else page
        assert file.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(file), f"{page.name} links to {target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_files_exist(page):
    for name in FILE.findall(page.read_text()):
        if not re.search(r"[A-Z]{2}", Path(name).stem):  # FAMILY.py stands for any family
            assert (ROOT / name).exists() or (ROOT / "transformer" / name).exists(), f"{page.name} names {name}"


def test_the_readme_links_to_every_page():
    linked = {target for target, _ in LINK.findall((ROOT / "README.md").read_text())}
    assert {f"docs/{page.name}" for page in PAGES[1:]} <= linked


def test_the_architecture_page_lists_the_rooms_from_the_ground_up():
    rows = re.findall(r"^\| (`[^|]*`) \|", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE)
    rooms = [name for row in rows for name in re.findall(r"`([a-z_/.]+)`", row)]
    levels = {room.removeprefix("transformer."): LEVEL[room] for room in LEVEL if room.count(".") < 2}
    listed = [levels[name] for room in rooms if (name := room.removesuffix(".py").removesuffix("/")) in levels]
    assert listed == sorted(listed)
    assert {room.removesuffix(".py").removesuffix("/") for room in rooms} >= levels.keys()
