"""What the pages of the documentation hold: their blocks of code, the commands in these, and words in running text."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from places import ROOT

#: Languages of blocks; what stands in braces is for the documentation site alone.
LANGUAGES = ("shell", "text", "python", "yaml", "json")
DIRECTIVES = re.compile(
    r"\{(toctree|include|literalinclude|eval-rst|figure|image|note|warning|tip|list-table|grid|card|tab-set)\}"
)

_OPERATORS = {"&&", "||", ";", "|", "&"}


@dataclass(frozen=True)
class Block:
    """A block of code: page relative to the repository, number of its first line, language, and what it holds."""

    page: str
    line: int
    language: str
    content: str

    @property
    def place(self) -> str:
        """``docs/batch.md:4``."""
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command:
    """A command of a shell block: where it stands, in which folder below the repository it runs, and its words."""

    page: str
    line: int
    folder: str
    environment: tuple[str, ...]
    words: tuple[str, ...]

    @property
    def place(self) -> str:
        """``docs/batch.md:4``."""
        return f"{self.page}:{self.line}"

    @property
    def text(self) -> str:
        """The command as one line, however its page writes it."""
        return " ".join([*self.environment, *(shlex.quote(word) for word in self.words)])

    @property
    def program(self) -> str:
        """``ldmsr`` for each way to write it; else the first word."""
        return self._split()[0]

    @property
    def arguments(self) -> tuple[str, ...]:
        """What the program is given."""
        return self._split()[1]

    def _split(self) -> tuple[str, tuple[str, ...]]:
        first, rest = self.words[0].rpartition("/")[2], self.words[1:]
        if first in ("python", "python3") and rest[:1] == ("-m",) and len(rest) > 1:
            first, rest = f"python -m {rest[1]}", rest[2:]
        return ("ldmsr" if first == "python -m monai_ldmsr" else first), rest


def pages() -> list[str]:
    """Pages that are written for readers, relative to the repository."""
    found = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "sample_data/README.md")]
    found += sorted(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts)
    found += sorted((ROOT / "bundles").glob("*/docs/*.md"))
    found += sorted((ROOT / "benchmarks").rglob("*.md"))
    return [path.relative_to(ROOT).as_posix() for path in found if path.is_file()]


def blocks(page: str, text: str | None = None) -> Iterator[Block]:
    """Blocks of code of a page; an indented one has the language ``indented``."""
    text = (ROOT / page).read_text(encoding="utf-8") if text is None else text
    for token in MarkdownIt("commonmark").parse(text):
        if token.type in ("fence", "code_block") and token.map:
            is_fence = token.type == "fence"
            yield Block(
                page, token.map[0] + 1 + is_fence, token.info.strip() if is_fence else "indented", token.content
            )


def all_blocks(*languages: str) -> list[Block]:
    """Blocks of all pages in these languages."""
    return [block for page in pages() for block in blocks(page) if block.language in languages]


def commands(block: Block) -> Iterator[Command]:
    """Commands of a shell block, one after the other, with what ``cd`` before them says of their folder.

    Raises:
        ValueError: a quotation is not closed.
    """
    folder = "."
    for line, words in _lines(block.content):
        given: list[str] = []
        for word in [*words, ";"]:
            if word not in _OPERATORS:
                given.append(word)
                continue
            for command in _parts(block, line, folder, given):
                if command.words[0] == "cd":
                    folder = (Path(folder) / command.words[1]).as_posix()
                yield command
            given = []


def all_commands() -> list[Command]:
    """Commands of all shell blocks of all pages."""
    return [command for block in all_blocks("shell") for command in commands(block)]


def spans(page: str) -> list[tuple[int, str]]:
    """Code within running text, tables and headings: number of a line at or above it, and text."""
    found = []
    for token in MarkdownIt("commonmark").enable("table").parse((ROOT / page).read_text(encoding="utf-8")):
        for child in token.children or []:
            if child.type == "code_inline":
                found.append(((token.map or [0])[0] + 1, child.content))
    return found


def links(page: str) -> list[tuple[int, str]]:
    """Links and pictures of a page: number of a line at or above it, and where it leads."""
    found = []
    for token in MarkdownIt("commonmark").enable("table").parse((ROOT / page).read_text(encoding="utf-8")):
        for child in token.children or []:
            to = child.attrGet("href") or child.attrGet("src")
            if to:
                found.append(((token.map or [0])[0] + 1, str(to)))
    return found


def _lines(content: str) -> Iterator[tuple[int, list[str]]]:
    """Number within the block and words of each line, those that go on in the next one joined."""
    held, start = "", 0
    for number, line in enumerate(content.splitlines()):
        start = start if held else number
        held += line
        if held.endswith("\\"):
            held = held[:-1] + " "
            continue
        try:
            words = _words(held)
        except ValueError:  # a quotation that goes on in the next line
            held += "\n"
            continue
        held = ""
        if words:
            yield start, words
    if held.strip():
        raise ValueError(f"a quotation is not closed: {held.strip()[:60]}")


def _words(line: str) -> list[str]:
    lexer = shlex.shlex(_without_comment(line), posix=True, punctuation_chars="();<>|&")
    lexer.whitespace_split, lexer.commenters = True, ""
    return list(lexer)


def _without_comment(line: str) -> str:
    quote = ""
    for n, letter in enumerate(line):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter == "#" and (n == 0 or line[n - 1].isspace()):
            return line[:n]
    return line


def _parts(block: Block, line: int, folder: str, words: list[str]) -> Iterator[Command]:
    """A command, and those that it is made of: ``eval "$(ldmsr completion bash)"`` holds another one."""
    environment, kept = [], []
    for n, word in enumerate(words):
        if not kept and re.match(r"[A-Z_]+=", word):
            environment.append(word)
        elif word not in (">", ">>", "<") and (n == 0 or words[n - 1] not in (">", ">>", "<")):
            kept.append(word)
    if not kept:
        return
    inner = [text for word in kept for text in re.findall(r"\$\((.*?)\)", word)]
    if not inner:
        yield Command(block.page, block.line + line, folder, tuple(environment), tuple(kept))
    for text in inner:
        yield Command(block.page, block.line + line, folder, tuple(environment), tuple(shlex.split(text)))
