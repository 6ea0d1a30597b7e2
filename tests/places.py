"""Where the repository's parts lie, whatever folder a test is in."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
BUNDLES = ROOT / "bundles"
SAMPLES = ROOT / "sample_data"
SHARED_DATA = ROOT.parent / "shared" / "data"
