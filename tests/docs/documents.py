"""What stands in the pages: fenced blocks, commands, tables and links."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^([ \t]*)```(\w*)\n(.*?)^\1```", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, the line of its first line, its language and text."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """README, CONTRIBUTING, CHANGELOG and every page of docs/."""
    return [*sorted(CHECKOUT.glob("*.md")), *sorted((CHECKOUT / "docs").rglob("*.md"))]


def blocks(language: str | None = None) -> list[Block]:
    """The fenced blocks of all pages, or those of one language."""
    found = []
    for page in pages():
        text = page.read_text()
        for match in FENCE.finditer(text):
            line = text.count("\n", 0, match.start(3)) + 1
            found.append(Block(str(page.relative_to(CHECKOUT)), line, match[2], match[3]))
    return [block for block in found if language in (None, block.language)]


def commands() -> list[tuple[str, list[str]]]:
    """(page:line, words) of each command of the bash blocks; comments are left out, `\\` joins lines."""
    found = []
    for block in blocks("bash"):
        number = block.line
        for line in re.split(r"(?<!\\)\n", block.text):
            for words in _simple(shlex.split(line.replace("\\\n", " "), comments=True)):
                found.append((f"{block.page}:{number}", words))
            number += line.count("\n") + 1
    return found


def inline_commands() -> list[tuple[str, list[str]]]:
    """(page:line, words) of each code span that is a command of xp; NAME, KEY and ... make it a pattern of one."""
    found = []
    for page in pages():
        text = page.read_text()
        prose = FENCE.sub(lambda match: "\n" * match[0].count("\n"), text)
        for match in re.finditer(r"`(xp (?:-m |task=|\+|--)[^`]*)`", prose):
            line = prose.count("\n", 0, match.start()) + 1
            if not re.search(r"NAME|KEY|\.\.\.", match[1]):
                found.append((f"{page.relative_to(CHECKOUT)}:{line}", shlex.split(match[1])))
    return found


def inline_python() -> list[tuple[str, str]]:
    """(page:line, code) of each code span that calls a function of xp."""
    found = []
    for page in pages():
        text = page.read_text()
        prose = FENCE.sub(lambda match: "\n" * match[0].count("\n"), text)
        for match in re.finditer(r"`((?:print\()?xp\.\w+\([^`]*)`", prose):
            line = prose.count("\n", 0, match.start()) + 1
            found.append((f"{page.relative_to(CHECKOUT)}:{line}", match[1]))
    return found


def _simple(words: list[str]) -> Iterator[list[str]]:
    command: list[str] = []
    for word in [*words, "&&"]:
        if word != "&&":
            command.append(word)
        elif command:
            yield command
            command = []


def links(page: Path) -> list[str]:
    """Targets of the relative links of a page."""
    prose = FENCE.sub("", page.read_text())
    targets = re.findall(r"(?<!`)\[[^\]\n]*\]\(([^)\s]+)\)", prose)
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs make them."""
    prose = FENCE.sub("", page.read_text())
    titles = re.findall(r"^#+ (.*)$", prose, re.M)
    return {re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}


def flag_tables(page: Path) -> dict[str, dict[str, str]]:
    """Of a page of migration tables: {script: {flag: what it became}}; a script is a heading in code."""
    tables: dict[str, dict[str, str]] = {}
    script = None
    for line in page.read_text().splitlines():
        if heading := re.match(r"#+ (.*)", line):
            named = re.fullmatch(r"`([\w.-]+)`", heading[1])
            script = named[1] if named else None
        elif script and (row := re.match(r"\| `(--[\w.-]+)[^|`]*`[^|]*\| (.*) \|$", line)):
            tables.setdefault(script, {})[row[1]] = row[2]
    return tables
