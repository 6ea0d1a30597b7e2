"""Makers of volume files of more kinds: label maps, pairs, FreeSurfer's, headers with lines of their own."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from odd_inputs import Make
from odd_volumes import AFFINE, SHAPE, SPACING_MM, image_file, values

#: Another place of the same volume: turned, mirrored, and 70 mm away.
ELSEWHERE = np.array([[0, -0.7, 0, 60.0], [0.9, 0, 0, 40.0], [0, 0, -2.5, -20.0], [0, 0, 0, 1]])


def regions(n: int = 5, dtype: Any = "<i2") -> np.ndarray:
    """A label map: 0 around, and blocks of whole numbers."""
    i, j, _ = np.indices(SHAPE)
    inside = (i > 2) & (i < 21) & (j > 2) & (j < 17)
    return (inside * (1 + (i // 6 + j // 6) % (n - 1))).astype(dtype)


def zstandard(content: bytes) -> bytes:
    """A frame of Zstandard with blocks that are stored as they are, so that no library is needed."""
    frame = b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", len(content))
    pieces = [content[n : n + 2**16] for n in range(0, len(content), 2**16)]
    for n, piece in enumerate(pieces):
        frame += ((len(piece) << 3) | (n == len(pieces) - 1)).to_bytes(3, "little") + piece
    return frame


def mgh(
    name: str = "v.mgz",
    voxels: np.ndarray | None = None,
    patch: Callable[[bytearray], Any] | None = None,
    footer: bytes = b"",
    affine: np.ndarray = AFFINE,
) -> Make:
    """A FreeSurfer volume, written by the definition of the format."""

    def make(folder: Path) -> None:
        data = values() if voxels is None else voxels
        code = {"u1": 0, "i4": 1, "f4": 3, "i2": 4}[f"{data.dtype.kind}{data.dtype.itemsize}"]
        shape = (*data.shape, 1)[:4]
        sizes = np.linalg.norm(affine[:3, :3], axis=0)
        centre = affine @ [*(np.array(shape[:3]) / 2), 1]
        head = struct.pack(">7ih", 1, *shape, code, 0, 1)
        head += struct.pack(">15f", *sizes, *(affine[:3, :3] / sizes).T.ravel(), *centre[:3])
        body = data.astype(data.dtype.newbyteorder(">")).tobytes(order="F")
        content = bytearray(head.ljust(284, b"\0") + body + bytes(20) + footer)
        if patch is not None:
            content = patch(content) or content
        (folder / name).write_bytes(gzip.compress(content, mtime=0) if name.endswith("mgz") else content)

    return make


def pair(name: str = "v.hdr", image_class: Any = nib.Nifti1Pair, voxels: np.ndarray | None = None) -> Make:
    def make(folder: Path) -> None:
        image = image_class(values() if voxels is None else voxels, AFFINE)
        if image_class is nib.AnalyzeImage:
            image.header.set_zooms(SPACING_MM)
        nib.save(image, folder / name)

    return make


def without(make: Make, name: str) -> Make:
    def less(folder: Path) -> None:
        make(folder)
        (folder / name).unlink()

    return less


def both(*makers: Make) -> Make:
    def make(folder: Path) -> None:
        for part in makers:
            part(folder)

    return make


def beside(name: str, content: object) -> Make:
    """A JSON file, or one that only is named so."""
    data = content if isinstance(content, bytes) else json.dumps(content).encode()

    def make(folder: Path) -> None:
        (folder / name).write_bytes(data)

    return make


def with_lines(name: str, *lines: bytes, voxels: np.ndarray | None = None) -> Make:
    """A NRRD or MetaImage file with more lines in its header."""

    def make(folder: Path) -> None:
        image_file(name, voxels)(folder)
        content = (folder / name).read_bytes()
        at = content.index(b"\n\n") + 1 if name.endswith("nrrd") else content.index(b"DimSize")
        added = b"".join(line + b"\n" for line in lines)
        (folder / name).write_bytes(content[:at] + added + content[at:])

    return make


def detached(name: str, data: str) -> Make:
    """A header with its voxels in another file, whose name is ``data``."""

    def make(folder: Path) -> None:
        image_file("v.nrrd" if name.endswith("nhdr") else "v.mha")(folder)
        source = next(folder.iterdir())
        mark = b"\n\n" if name.endswith("nhdr") else b"LOCAL\n"
        head, voxels = source.read_bytes().split(mark, 1)
        source.unlink()
        line = b"\ndata file: %b\n\n" if name.endswith("nhdr") else b"%b\n"
        (folder / name).write_bytes(head + line % data.encode())
        (folder / data if data in ("v.raw", "a scan.raw") else folder.parent / "v.raw").write_bytes(voxels)

    return make


def longer(name: str) -> Make:
    def make(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content.replace(b"DimSize", b"Foo = " + b"x" * 10**4 + b"\nDimSize"))

    return make


def capitals(folder: Path) -> None:
    for path in list(folder.iterdir()):
        path.rename(folder / path.name.upper())


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def squeeze(path: Path) -> None:
    path.write_bytes(gzip.compress(path.read_bytes()))


def bomb(content: bytearray) -> bytes:
    """2 GB of voxels claimed, of which 40 MB of zeros are there in 40 kB."""
    struct.pack_into(">3i", content, 4, 1024, 1024, 1024)
    return bytes(content[:284]) + bytes(40 * 2**20)
