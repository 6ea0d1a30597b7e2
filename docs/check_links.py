"""Links and anchors within the built site: ``python docs/check_links.py build/docs``.

Sphinx checks what pages refer to; this checks what it made of them, theme and pictures included. LinkChecker is not
used, since as root it gives up its rights and then cannot read a checkout in root's own folder.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """What a page links to, and the anchors that it has."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep links and anchors of one tag."""
        given = {name: value for name, value in attrs if value}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        self.links += [given[name] for name in ("href", "src") if name in given]


def dead_links(site: Path) -> Iterator[str]:
    """Page and link, for each that leads to no file or anchor of the site; other sites are not looked at."""
    pages = {path.resolve(): Page(path) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            if not there.is_file() or (anchor and there in pages and anchor not in pages[there].anchors):
                yield f"{path.relative_to(site.resolve())}: {link}"


if __name__ == "__main__":
    found = list(dead_links(Path(sys.argv[1])))
    print("\n".join(found) or "All links within the site lead somewhere.")
    sys.exit(bool(found))
