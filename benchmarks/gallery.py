"""Pictures of sample data for the documentation: `python -m benchmarks.gallery docs/gallery`.

Every detail is chosen by a rule that stands in its picture, and by nothing else. Beside the pictures lie the figures
that docs/gallery.md quotes, in figures.json. With --work, results are kept in a folder and not made again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.gallery_places import (
    SIDE,
    Place,
    bright_edges,
    flat_place,
    outside,
    places_of,
    shown_value,
    spot_box,
    window_of,
    worst_box,
)
from benchmarks.gallery_results import FACTOR, NATIVE, UNITS, Made, Results, Slice
from benchmarks.gallery_sheets import Row, Tile, colours, draw_sheet, enlarged, greys, overview
from monai_ldmsr.assessment import patient_of
from monai_ldmsr.report.figures import DetailBox, find_edges

__all__ = ["PICTURES", "figures_table", "main", "make"]

FloatImage = npt.NDArray[np.floating]
Images = Mapping[str, FloatImage]

#: How many pixels of the picture each of the result becomes; sides of details in pixels of the original, and of a
#: failure, with its own zoom.
ZOOM, DEGRADED_SIDE = 2, 96
FAILURE_SIDE, FAILURE_ZOOM = 48, 4

#: Share of a map that its colours hold.
_HELD = 0.995

#: The banner: its factor, and its side in pixels of the source.
_BANNER, _BANNER_SIDE = 2, 100

_RESEARCH = "For research only, not for diagnosis."


def _tiles(images: Images, place: Place, zoom: int, is_inverted: bool = False) -> list[Tile]:
    return [
        Tile(name, enlarged(greys(place.box.cut(image), place.window, is_inverted), zoom))
        for name, image in images.items()
    ]


def _error_tiles(maps: Images, place: Place, zoom: int, limit: float) -> list[Tile]:
    return [Tile(name, enlarged(colours(place.box.cut(values), limit), zoom)) for name, values in maps.items()]


def _limit(maps: Sequence[FloatImage], places: Sequence[Place]) -> float:
    """The value of the outermost colours, to 2 digits."""
    shown = np.concatenate([place.box.cut(one).ravel() for one in maps for place in places])
    return float(f"{np.quantile(shown, _HELD):.1e}")


def _window_words(modality: str, window: tuple[float, float]) -> str:
    if modality == "CT":
        return "Window: soft tissue, W 400 L 40 HU."
    words = "inverted grey, " if modality == "PT" else ""
    return f"Window of the slice: {words}{shown_value(window[0])} to {shown_value(window[1])} {UNITS[modality]}."


def before_after(results: Results, path: Path) -> None:
    """MR as scanned, factor 2: the source's pixels, bicubic, the result as shipped."""
    one = NATIVE[0]
    source = results.source(one)
    window = window_of(source, one.modality)
    box = bright_edges(source, window, min(_BANNER_SIDE, *source.shape)).finer(_BANNER, _BANNER)
    images = {
        "Source, pixels 0.67 mm wide, repeated": enlarged(source, _BANNER),
        "Bicubic, 0.34 mm": results.bicubic(source, one.modality, _BANNER),
        "ldmsr as shipped, 0.34 mm": results.native(one, "shipped", _BANNER).image,
    }
    draw_sheet([Row("", _tiles(images, Place("", "", box, window), ZOOM))], path)


def native(one: Slice, results: Results, path: Path) -> None:
    """A slice as scanned in all ways, with the map of expected error."""
    source = results.source(one)
    is_inverted, window = one.modality == "PT", window_of(source, one.modality)
    images: dict[str, FloatImage] = {
        "Source, pixels repeated": enlarged(source, FACTOR),
        "Bicubic": results.bicubic(source, one.modality),
    }
    made = {dial: results.native(one, dial) for dial in one.dials}
    words = {"mean": "Mean (detail 0)", "shipped": "As shipped (detail 0.5)", "sample": "Sample (detail 1)"}
    if "shipped" not in made:
        words["mean"] = "Mean (detail 0), as shipped"
    images |= {words[dial]: found.image for dial, found in made.items()}
    error = made["shipped" if "shipped" in made else "mean"].error
    places = places_of(one, source)
    rows = []
    for place in places:
        zoom, limit = SIDE * ZOOM // place.box.rows, _limit([error], [place])
        name = f"Expected error, to {shown_value(limit)}"
        tiles = [*_tiles(images, place, zoom, is_inverted), *_error_tiles({name: error}, place, zoom, limit)]
        rows.append(Row(place.heading, tiles))
    lines = [
        f"{one.title}, as scanned, factor {FACTOR}",
        f"In A a pixel of the result is {ZOOM} x {ZOOM} of the picture, one of the source {ZOOM * FACTOR} wide.",
        _window_words(one.modality, window),
        "Expected error, as shipped: half width of the interval meant to hold 9 of 10 true values.",
        _RESEARCH,
    ]
    boxes = [(place.letter, _coarser(place.box)) for place in places]
    scale = f"the value above each map, in {UNITS[one.modality]}"
    head = overview(source, window, boxes, lines, scale, is_inverted)
    draw_sheet(rows, path, head)


def _coarser(box: DetailBox) -> DetailBox:
    """A box of the result in pixels of the source."""
    return DetailBox(box.row // FACTOR, box.column // FACTOR, box.rows // FACTOR, box.columns // FACTOR)


def degraded(results: Results, path: Path) -> dict[str, Any]:
    """MR averaged 4x and brought back beside the original, and errors beside expected ones."""
    one = NATIVE[0]
    original, rows = results.degraded(one)
    window = window_of(original, one.modality)
    edges = find_edges(np.clip(original, *window), DEGRADED_SIDE)
    sample = outside(np.abs(rows["Sample"].image - original), [edges])
    places = [
        Place("A", "the square with most edges in the original", edges, window),
        Place("B", "the square where the sample errs most, A not counted", worst_box(sample, DEGRADED_SIDE), window),
    ]
    errors = {f"|error| of {_small(name)}": np.abs(made.image - original) for name, made in rows.items()}
    errors["Expected error of mean"] = rows["Mean"].error
    limit = _limit(list(errors.values()), places)
    shown: list[Row] = []
    for place in places:
        images = {**{name: made.image for name, made in rows.items()}, "Original": original}
        shown += [Row(place.heading, _tiles(images, place, ZOOM)), Row("", _error_tiles(errors, place, ZOOM, limit))]
    lines = [
        f"{one.title}, averaged {FACTOR} x {FACTOR} and brought back",
        f"A pixel of the original is {ZOOM} x {ZOOM} of the picture.",
        _window_words(one.modality, window),
        _RESEARCH,
    ]
    scale = f"{shown_value(limit)} signal"
    draw_sheet(shown, path, overview(original, window, [(p.letter, p.box) for p in places], lines, scale))
    return {each.modality: _figures(*results.degraded(each)) for each in NATIVE[:2]}


def _small(name: str) -> str:
    return name if name.startswith("SR") else name.lower()


def _figures(original: FloatImage, rows: Mapping[str, Made]) -> dict[str, dict[str, float]]:
    """Mean error of each row over the whole slice, and the share of voxels within the expected error."""
    found: dict[str, dict[str, float]] = {}
    for name, made in rows.items():
        error = np.abs(made.image - original)
        found[name] = {"mean_error": float(f"{error.mean():.3g}")}
        if made.error.size:
            found[name]["within_expected"] = round(float((error <= made.error).mean()), 3)
    return found


def through_plane(results: Results, path: Path) -> dict[str, Any]:
    """MR averaged along the stack and brought back, on a plane across the thick slices."""
    images = results.through_plane()
    original = images["Original"]
    window = window_of(original, "MR")
    edges = find_edges(np.clip(original, *window), SIDE)
    error = outside(np.abs(images["ldmsr"] - original), [edges])
    places = [
        Place("A", "the square with most edges in the original", edges, window),
        Place("B", "the square where ldmsr errs most, A not counted", worst_box(error, SIDE), window),
    ]
    lines = [
        "T1-weighted head MR, averaged to slices of 2.8 mm and made isotropic",
        "The plane lies across the thick slices, which are stacked from top to bottom.",
        f"A pixel of the original is {ZOOM} x {ZOOM} of the picture.",
        _window_words("MR", window),
        _RESEARCH,
    ]
    rows = [Row(place.heading, _tiles(images, place, ZOOM)) for place in places]
    draw_sheet(rows, path, overview(original, window, [(p.letter, p.box) for p in places], lines))
    rest = [name for name in images if name not in ("Thick slices", "Original")]
    return {name: {"mean_error": float(f"{np.abs(images[name] - original).mean():.3g}")} for name in rest}


def failures(results: Results, path: Path) -> None:
    """What goes wrong most, by rules."""
    rows = [row for one in NATIVE[:2] for row in _degraded_failures(results, one)]
    rows += [_flat_failure(results, one) for one in NATIVE[1:]]
    draw_sheet(rows, path)


def _degraded_failures(results: Results, one: Slice) -> list[Row]:
    """Where what comes back of averages differs most from the original, as far as the window shows it."""
    original, made = results.degraded(one)
    window, side = window_of(original, one.modality), FAILURE_SIDE
    clipped = {name: np.clip(row.image, *window) for name, row in made.items()}
    truth = np.clip(original, *window)
    body = patient_of(original) if one.modality == "CT" else np.ones(original.shape, np.bool_)
    error = {name: np.abs(image - truth) * body for name, image in clipped.items()}
    most = worst_box(error["Sample"], side)
    beyond = worst_box(outside(error["Sample"] - error["Bicubic"], [most]), side)
    rules = {
        "where the sample errs most": most,
        "elsewhere, where the sample errs most beyond bicubic": beyond,
        "the bright spot that loses most of its contrast in the mean": spot_box(truth, clipped["Mean"], side, body),
    }
    images = {**{name: made[name].image for name in ("Bicubic", "Mean", "Sample")}, "Original": original}
    rows = []
    for rule, box in rules.items():
        place = Place("", f"{one.modality}, averaged {FACTOR} x {FACTOR}: {rule}", box, window)
        limit = _limit([error["Sample"]], [place])
        maps = {
            f"|error|, to {shown_value(limit)}": error["Sample"],
            f"Expected, to {shown_value(limit)}": made["Sample"].error,
        }
        tiles = [*_tiles(images, place, FAILURE_ZOOM), *_error_tiles(maps, place, FAILURE_ZOOM, limit)]
        rows.append(Row(place.heading, tiles))
    return rows


def _flat_failure(results: Results, one: Slice) -> Row:
    """Flat tissue as scanned: what the network makes of noise."""
    source = results.source(one)
    mean, sample = (results.native(one, dial) for dial in ("mean", "sample"))
    flat = flat_place(one, source, FAILURE_SIDE // FACTOR)
    words = {"CT": "CT", "PT": "PET"}[one.modality]
    rule = f"{words} as scanned, factor {FACTOR}: around the flattest tissue"
    place = Place("", rule + (", inverted grey" if one.modality == "PT" else ""), flat.box, flat.window)
    images = {"Source": enlarged(source, FACTOR), "Bicubic": results.bicubic(source, one.modality)}
    images |= {"Mean": mean.image, "Sample": sample.image}
    limit = _limit([sample.error], [place])
    tiles = _tiles(images, place, FAILURE_ZOOM, one.modality == "PT")
    return Row(
        place.heading,
        [*tiles, *_error_tiles({f"Expected, to {shown_value(limit)}": sample.error}, place, FAILURE_ZOOM, limit)],
    )


def figures_table(found: Mapping[str, Any]) -> str:
    """The figures as the page has them."""
    text = "| picture | row | mean absolute error | within the expected error |\n| --- | --- | --- | --- |\n"
    parts = {f"averaged 4 x 4, {modality}": rows for modality, rows in found["degraded"].items()}
    for picture, rows in {**parts, "along the stack, MR": found["through_plane"]}.items():
        for row, figures in rows.items():
            share = f"{figures['within_expected']:.1%}" if "within_expected" in figures else ""
            unit = UNITS["CT" if "CT" in picture else "MR"]
            text += f"| {picture} | {row} | {figures['mean_error']:.3g} {unit} | {share} |\n"
    return text


#: Pictures that are made, without extension.
PICTURES = ("before_after", "mr", "ct", "pet", "degraded", "through_plane", "failures")


def make(folder: Path, results: Results, pictures: Sequence[str] = PICTURES) -> None:
    """Draw pictures into a folder, and write figures.json where all that it needs is drawn."""
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    for name in pictures:
        path = folder / f"{name}.png"
        slices = {one.name: one for one in NATIVE}
        if name in slices:
            native(slices[name], results, path)
        else:
            drawing: Any = {
                "before_after": before_after, "degraded": degraded, "through_plane": through_plane,
                "failures": failures,
            }[name]  # fmt: skip
            found[name] = drawing(results, path)
        print(f"written: {path} ({path.stat().st_size / 1000:.0f} kB)", flush=True)
    if {"degraded", "through_plane"} <= found.keys():
        kept = {name: found[name] for name in ("degraded", "through_plane")}
        (folder / "figures.json").write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Make the gallery."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the pictures, made when missing")
    parser.add_argument("--work", type=Path, help="folder of results that are kept; none are kept unless it is given")
    parser.add_argument("--pictures", nargs="+", choices=PICTURES, default=PICTURES, help="pictures that are made")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        make(given.folder, Results(given.work or Path(temporary)), given.pictures)


if __name__ == "__main__":
    main()
