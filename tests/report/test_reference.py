"""The pages below docs/ say what the code says."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from places import ROOT

from monai_ldmsr.errors import ReasonCode
from monai_ldmsr.io.derived_attributes import ATTRIBUTE_RULES
from monai_ldmsr.reference import PAGES

DOCS = ROOT / "docs"
CODECS = ("gdcm", "jpeg_ls", "openjpeg")


@pytest.mark.parametrize("name", PAGES)
def test_page_is_as_made_from_the_code(name: str) -> None:
    if name == "dicom_support.md" and not all(map(find_spec, CODECS)):
        pytest.skip("the list is of an installation with all codecs")
    stale = f"docs/{name} is stale: python -m monai_ldmsr.reference docs"
    assert (DOCS / name).read_text(encoding="utf-8") == PAGES[name](), stale


def test_every_reason_is_explained_in_sentences() -> None:
    for code in ReasonCode:
        assert ReasonCode(code.value) is code
        assert code.value == code.name
        assert len(code.meaning) > 15
        assert code.meaning.endswith(".")
        assert code.remedy
    assert len({code.meaning for code in ReasonCode}) == len(ReasonCode)


def test_every_rule_has_its_row() -> None:
    page = (DOCS / "derived_attributes.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| (")]
    assert len(rows) == len(ATTRIBUTE_RULES)
    assert {row[1] for row in rows} == {rule.keyword for rule in ATTRIBUTE_RULES}
