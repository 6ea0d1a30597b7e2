"""Settings of Sphinx for the documentation site: ``make docs``."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from monai_ldmsr import __version__  # noqa: E402

project = "monai_ldmsr"
author = "the monai_ldmsr authors"
project_copyright = author
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinxarg.ext",
]

smartquotes = False  # as options with two dashes

html_theme = "furo"
html_title = f"monai_ldmsr {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4

# What sphinx-argparse lacks, and does not need for the one page that has it.
suppress_warnings = ["myst.domains"]

# The notebook is run as the site is built; what fails in it fails the build.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 900
nb_merge_streams = True

autodoc_default_options = {"exclude-members": "__new__"}
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_numpy_docstring = False
napoleon_use_rtype = False

#: Pages of the repository outside of docs/, and where the site has them.
ELSEWHERE = {
    "README.md": "/index.md",
    "CHANGELOG.md": "/project/changelog.md",
    "CONTRIBUTING.md": "/project/contributing.md",
    "SECURITY.md": "/project/security.md",
    "CODE_OF_CONDUCT.md": "/project/conduct.md",
    "bundles/ldm_sr/docs/README.md": "/models/ldm_sr.md",
    "bundles/srgan_sr/docs/README.md": "/models/srgan_sr.md",
    "benchmarks/gpu_training/README.md": "/gpu_training.md",
    "sample_data/README.md": "/sample_data.md",
}
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#|/)([^)#\s]+)")


def site_links(text: str, page: Path) -> str:
    """``text`` of ``page`` with its links to pages outside of docs/ led to where the site has them.

    Such links are for those who read the pages in the repository.
    """

    def on_the_site(link: re.Match[str]) -> str:
        there = (page.parent / link[1]).resolve()
        if not there.is_relative_to(ROOT):
            return link[1]
        name = there.relative_to(ROOT).as_posix()
        if name.startswith("docs/"):
            return f"/{name.removeprefix('docs/')}"
        return ELSEWHERE.get(name, link[1])

    return _LINK.sub(on_the_site, text)


def _read(app: Sphinx, docname: str, source: list[str]) -> None:
    source[0] = site_links(source[0], Path(app.env.doc2path(docname)))


def _included(app: Sphinx, path: Path, docname: str, source: list[str]) -> None:
    source[0] = site_links(source[0], Path(app.srcdir, path).resolve())


#: Packages whose names are imported when first used, and where autodoc finds none otherwise.
LAZY = ("monai_ldmsr", "monai_ldmsr.transforms")


def _skip(app: Sphinx, what: str, name: str, member: object, skip: bool, options: Any) -> bool | None:
    """Fields of named tuples whose documentation is Python's own stand under the tuple's arguments already."""
    return True if (getattr(member, "__doc__", None) or "").startswith("Alias for field number") else None


def setup(app: Sphinx) -> None:
    """Connect what leads links to where the site has their pages, and import what autodoc is to find."""
    for package in map(importlib.import_module, LAZY):
        for name in package.__all__:
            setattr(package, name, getattr(package, name))
    app.connect("autodoc-skip-member", _skip)
    app.connect("source-read", _read)
    app.connect("include-read", _included)
