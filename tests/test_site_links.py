"""Links of the built site that lead nowhere are found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from places import ROOT


def checked(site: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "docs" / "check_links.py"), str(site)], capture_output=True, text=True, check=False
    )


def test_dead_links_and_anchors_are_named(tmp_path: Path) -> None:
    (tmp_path / "for").mkdir()
    (tmp_path / "picture.png").write_bytes(b"")
    (tmp_path / "index.html").write_text(
        '<h1 id="top"></h1><a href="for/reader.html#how%20to">1</a><a href="https://example.org/gone">2</a>'
        '<a href="#top">3</a><img src="picture.png">'
    )
    reader = tmp_path / "for" / "reader.html"
    reader.write_text('<h2 id="how to"></h2><a href="../index.html">4</a><a href="mailto:a@example.org">5</a>')
    assert checked(tmp_path).returncode == 0
    reader.write_text('<a href="../index.html#bottom">1</a><a href="faq.html">2</a><img src="../none.png">')
    done = checked(tmp_path)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "for/reader.html: ../index.html#bottom",
        "for/reader.html: faq.html",
        "for/reader.html: ../none.png",
        "index.html: for/reader.html#how%20to",
    ]
