"""Reference pages made from the code's own tables: ``python -m monai_ldmsr.reference docs``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from pydicom.datadict import tag_for_keyword
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID, AllTransferSyntaxes

from monai_ldmsr.errors import ReasonCode
from monai_ldmsr.io.derived_attributes import ATTRIBUTE_RULES, AttributeRule, Fate
from monai_ldmsr.io.dicom_header import CLASSIC
from monai_ldmsr.io.enhanced_multiframe import CLASSIC_FORM
from monai_ldmsr.io.itk_decoder import ITK_SYNTAXES
from monai_ldmsr.io.transfer_syntaxes import TRANSFER_SYNTAXES
from monai_ldmsr.settings import Setting, WorkSettings, described

__all__ = ["PAGES", "write_pages"]

_MADE = "<!-- Made by `python -m monai_ldmsr.reference docs`; do not edit. -->"

_ATTRIBUTES = """\
What becomes of each attribute of a source image in the derived image. The table is an allow-list: an attribute that is
not in it, private ones among them, does not reach the result. *Kept* means the bytes of the source; where an attribute
of type 2 is missing, it is added empty. Where a result has new slices, the source of each is the acquired slice nearest
to it. *New* and *recomputed* attributes are made by this software; where the rule says that something is appended, or
stands before the source's, the source's text stands there too.
"""

_REASONS = """\
`summary.json` has one entry for each series or file: `done`, or `skipped` or `failed` with one of these codes and a
message.
"""


_SETTINGS = """\
How a volume is super-resolved, and how its result is written. The name of a setting is that of the argument of
`super_resolve`, `super_resolve_image` and `WorkSettings`, and of the key in a bundle's config, where there is one. The
option belongs to `ldmsr run`, `batch` and `serve`. *The bundle's* means the value in the bundle's config:
[values of `ldm_sr`](#values-of-the-bundle-ldm_sr). The option of `limits` is `--limit NAME=VALUE`, once for each. A few
keys of the config change voxels and have no option, such as `overshoot` and `start_noise`: give them to
`python -m monai.bundle run`.
"""

_SETTING_KINDS = {
    "voxels": "What changes voxels",
    "headers": "What changes headers, and what is written beside the images",
    "use": "What is used of the computer",
    "nothing": "Other",
}

_BUNDLE_VALUES = """\
## Values of the bundle `ldm_sr`

The top of `bundles/ldm_sr/configs/inference.yaml`, from which every command, MONAI Label and
`python -m monai.bundle run` start:

```{literalinclude} ../bundles/ldm_sr/configs/inference.yaml
:language: yaml
:end-before: "# The networks."
```
"""


def write_pages(folder: Path) -> None:
    """Write all pages of :data:`PAGES` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        (folder / name).write_text(page(), encoding="utf-8")


def reason_codes() -> str:
    """All reason codes: meaning and remedy."""
    rows = [(f"`{code.value}`", code.meaning, code.remedy) for code in ReasonCode]
    return _page("Reason codes", _REASONS, _table(("code", "meaning", "what to do"), rows))


def derived_attributes() -> str:
    """All rules for attributes, by fate and module."""
    parts = []
    for fate in Fate:
        rules = [rule for rule in ATTRIBUTE_RULES if rule.fate is fate]
        rows = [(_tag(r.keyword), r.keyword, r.module, " ".join(r.modalities), _rule(r)) for r in rules]
        table = _table(("tag", "keyword", "module", "IOD", "rule"), rows)
        parts.append(f"## {fate.value.capitalize()}: {len(rows)}\n\n{table}")
    return _page("Attributes of a derived image", _ATTRIBUTES, "\n".join(parts))


def dicom_support() -> str:
    """SOP classes and transfer syntaxes that are read and written."""
    classes = [(uid.name, f"`{uid}`", modality) for uid, modality in CLASSIC.items()]
    enhanced = [(uid.name, f"`{uid}`", classic.name) for uid, classic in CLASSIC_FORM.items()]
    syntaxes = [
        (uid.name, f"`{uid}`", "by an extra, `monai_ldmsr[codecs]`" if _needs_codec(uid) else "always")
        for uid in AllTransferSyntaxes
        if not uid.is_private and _can_decode(uid)
    ]
    written = _table(
        ("transfer syntax", "UID", "asked for by `--transfer-syntax`"),
        [(UID(uid).name, f"`{uid}`", f"`{name}`") for name, uid in TRANSFER_SYNTAXES.items()],
    )
    return _page(
        "SOP classes and transfer syntaxes",
        "",
        "## SOP classes read and written\n\nA result has the SOP class of its source.\n"
        "`--dicom-form enhanced` writes one Legacy Converted Enhanced object in place of an image for each slice.\n\n"
        + _table(("SOP class", "UID", "Modality"), classes)
        + "\n## Multi-frame SOP classes read\n\nEach frame becomes a classic image that references it.\n\n"
        + _table(("SOP class", "UID", "written as"), enhanced)
        + "\n## Transfer syntaxes read\n\n"
        + _table(("transfer syntax", "UID", "decoded"), syntaxes)
        + "\n## Transfer syntax written\n\n"
        + written,
    )


def settings() -> str:
    """All settings, by what they change."""
    parts = []
    for kind, title in _SETTING_KINDS.items():
        rows = [
            (f"`{name}`", _code(one.option(name)), one.help, ", ".join(map(str, one.choices)), _usual(one, default))
            for name, (one, default) in described(WorkSettings).items()
            if one.changes == kind
        ]
        parts.append(
            f"## {title}\n\n" + _table(("setting", "option", "what it does", "values", "where it is not given"), rows)
        )
    return _page("Settings", _SETTINGS, "\n".join([*parts, _BUNDLE_VALUES]))


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _usual(one: Setting, default: object) -> str:
    return one.usual if default is None else _code(str(default))


def _can_decode(uid: str) -> bool:
    try:
        return bool(get_decoder(uid).is_available) or uid in ITK_SYNTAXES
    except NotImplementedError:
        return False


def _needs_codec(uid: str) -> bool:
    """Whether neither pydicom by itself nor ITK decodes a transfer syntax."""
    decoder = get_decoder(uid)
    return "pydicom" not in decoder.available_plugins and decoder.is_encapsulated and uid not in ITK_SYNTAXES


def _tag(keyword: str) -> str:
    tag = tag_for_keyword(keyword)
    return keyword if tag is None else f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def _rule(rule: AttributeRule) -> str:
    return "; ".join(filter(None, ("empty where missing" if rule.type_2 else "", rule.note)))


def _page(title: str, introduction: str, body: str) -> str:
    return f"# {title}\n\n{_MADE}\n\n{introduction}\n{body}".replace("\n\n\n", "\n\n")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


#: File name to what writes it.
PAGES: dict[str, Callable[[], str]] = {
    "derived_attributes.md": derived_attributes,
    "dicom_support.md": dicom_support,
    "reason_codes.md": reason_codes,
    "settings.md": settings,
}


if __name__ == "__main__":
    write_pages(Path(sys.argv[1]))
