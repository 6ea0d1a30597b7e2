"""The page of a training: curves of all losses and validation pictures, in one file that needs no other.

Made of text alone, so that it is there where nothing but torch, MONAI and NumPy is installed.
"""

from __future__ import annotations

import base64
import logging
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from monai_ldmsr.report import RESEARCH_NOTICE
from monai_ldmsr.storage import replace_text
from monai_ldmsr.training.loss_log import read_losses

__all__ = ["PAGE", "write_page"]

#: Name of the page in the folder of a training.
PAGE = "training.html"

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 360, 150, 58, 20

#: Points of a curve at most; more are averaged.
_POINTS = 180

_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
{refresh}<title>Training of super-resolution</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; }}
.notice {{ border-left: 4px solid #c60; padding: 0.3rem 0.8rem; }}
.grid {{ display: flex; flex-wrap: wrap; gap: 1rem; }}
figure {{ margin: 0; }} figcaption {{ font-size: 0.85rem; font-weight: 600; }}
svg text {{ font-size: 11px; fill: currentColor; }} svg {{ color: inherit; }}
polyline {{ fill: none; stroke: #07c; stroke-width: 1.6; }} .axis {{ stroke: #8888; stroke-width: 1; }}
img {{ max-width: 100%; image-rendering: pixelated; background: white; }}
</style></head><body>
<h1>Training of super-resolution</h1>
<p class="notice">{notice}</p>
<p>{state} Losses are means over the seconds before each point, against minutes of the stage's own time.</p>
"""


def write_page(folder: Path, stages: Sequence[str] = (), *, running: bool = False) -> None:
    """Write ``training.html`` from the logs and pictures of a folder; what cannot be written is logged.

    Args:
        folder: holds ``<stage>.csv`` and ``pictures/<stage>_<iteration>.png``.
        stages: order of the stages; others follow by name.
        running: let the page load itself again, each 15 s.
    """
    logs = {path.stem: path for path in sorted(folder.glob("*.csv"), key=lambda path: path.stat().st_mtime_ns)}
    names = [name for name in (*stages, *logs) if name in logs]
    state = "The training goes on; this page loads itself again." if running else "The training has ended or stopped."
    refresh = '<meta http-equiv="refresh" content="15">\n' if running else ""
    parts = [_HEAD.format(refresh=refresh, notice=escape(RESEARCH_NOTICE), state=state)]
    try:
        parts += [_stage(name, logs[name], folder / "pictures") for name in dict.fromkeys(names)]
        replace_text(folder / PAGE, "".join(parts) + "</body></html>\n")
    except OSError as error:
        logging.getLogger(__name__).warning("The page of the training cannot be written: %s.", error.strerror)


def _stage(name: str, log: Path, pictures: Path) -> str:
    rows = read_losses(log)
    minutes = [float(row["used_s"]) / 60 for row in rows]
    columns = [key for key in rows[0] if key and key not in ("step", "used_s")] if rows else []
    curves = "".join(
        _curve(key, [(t, float(row[key])) for t, row in zip(minutes, rows, strict=True) if row[key]]) for key in columns
    )
    drawn = sorted(pictures.glob(f"{name}_*.png"), key=lambda path: path.stat().st_mtime_ns)
    shown = "".join(_picture(path) for path in dict.fromkeys([*drawn[:1], *drawn[-1:]]))
    said = f"{minutes[-1]:.1f} minutes, step {escape(rows[-1]['step'])}" if rows else "no step yet"
    return f'<h2>{escape(name)}</h2><p>{said}</p><div class="grid">{curves}</div>{shown}\n'


def _picture(path: Path) -> str:
    step = int(path.stem.rpartition("_")[2])
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    caption = f"step {step}: bicubic, network, original, of calibration patients"
    return (
        f'<figure><figcaption>{caption}</figcaption><img alt="{caption}" src="data:image/png;base64,{data}"></figure>'
    )


def _curve(name: str, points: Sequence[tuple[float, float]]) -> str:
    """One curve as SVG; logarithmic where it falls by more than a factor of ten."""
    points = _thinned([point for point in points if math.isfinite(point[1])])
    if not points:
        return ""
    values = [value for _, value in points]
    low, high, last = min(values), max(values), points[-1][0]
    is_log = low > 0 and high > 10 * low

    def height(value: float) -> float:
        a, b, v = (math.log(x) if is_log else x for x in (low, high, value))
        return _HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - 12) * ((v - a) / (b - a) if b > a else 0.5)

    first = points[0][0]
    span = max(last - first, 1e-9)
    places = " ".join(
        f"{_LEFT + (_WIDTH - _LEFT - 8) * (t - first) / span:.1f},{height(value):.1f}" for t, value in points
    )
    floor = _HEIGHT - _BOTTOM
    return (
        f"<figure><figcaption>{escape(name.replace('_', ' '))}{' (logarithmic)' if is_log else ''}: "
        f"{values[-1]:.4g}</figcaption>"
        f'<svg role="img" aria-label="{escape(name)}" width="{_WIDTH}" height="{_HEIGHT}">'
        f'<path class="axis" fill="none" d="M{_LEFT},8V{floor}H{_WIDTH - 8}"/><polyline points="{places}"/>'
        f'<text x="{_LEFT - 4}" y="16" text-anchor="end">{high:.3g}</text>'
        f'<text x="{_LEFT - 4}" y="{floor}" text-anchor="end">{low:.3g}</text>'
        f'<text x="{_LEFT}" y="{_HEIGHT - 5}">{first:.1f}</text>'
        f'<text x="{_WIDTH - 8}" y="{_HEIGHT - 5}" text-anchor="end">{last:.1f} min</text></svg></figure>'
    )


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    size = -(-len(points) // _POINTS) or 1
    groups = [points[n : n + size] for n in range(0, len(points), size)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]
