"""Messages, help, docstrings, docs and model cards use the words of the word list in CONTRIBUTING.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: What the word list says not to write.
ODD = re.compile(
    r"\b(anew|tells?|told|telling|noted|doubt\w*|mend(s|ed|ing)?|suffices?|want of|passing names?|nobody's|whereof|"
    r"lets us|in vain|cannot be had)\b",
    re.IGNORECASE,
)
#: The name of a file in the folder of ``ldmsr label``, which earlier versions wrote too.
NAMES = ("told.json",)

TEXTS = [ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "CITATION.cff"]
TEXTS += [path for path in (ROOT / "docs").rglob("*") if path.suffix in (".md", ".ipynb", ".svg")]
TEXTS += [path for path in (ROOT / "bundles").rglob("*") if path.suffix in (".md", ".yaml", ".json")]
TEXTS += (ROOT / "monai_ldmsr").rglob("*.html")
MODULES = sorted((ROOT / "monai_ldmsr").rglob("*.py"))


def strings(path: Path) -> Iterator[str]:
    """String literals of a module, docstrings among them."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.mark.parametrize("path", [*TEXTS, *MODULES], ids=lambda path: str(path.relative_to(ROOT)))
def test_words_are_those_of_the_list(path: Path) -> None:
    found = strings(path) if path.suffix == ".py" else path.read_text().splitlines()
    assert not [text for text in found if ODD.search(text) and not any(name in text for name in NAMES)]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_texts_of_arguments_stand_alone(path: Path) -> None:
    """``n_slices: number of slices`` and not ``n_slices: of the volume``."""
    assert not [
        found
        for text in strings(path)
        for found in re.findall(r"^ {4,}[a-z]\w*: (?:of|that|with|by which) .*", text, re.M)
    ]
