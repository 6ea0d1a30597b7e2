"""How like the original a result is in what the eye calls structure: edges, grain, texture, and true detail.

Sharpness alone is fooled by noise and by patterns; each figure here has one thing in view. All take model-range
values as they are, not rounded, of one slice (1, 1, H, W) and its original on the same grid.
"""

from __future__ import annotations

import math

import torch
from monai.utils import convert_to_tensor
from torch import Tensor
from torch.nn import functional

from monai_ldmsr.errors import SettingsError
from monai_ldmsr.metrics.native import N_TILES, TILE_SIDE, flattest_tiles

__all__ = [
    "N_RINGS",
    "STRUCTURE_DEFINITIONS",
    "STRUCTURE_GOALS",
    "edge_width",
    "flat_noise",
    "lattice",
    "patch_distances",
    "ring_correlation",
    "ring_numbers",
    "structure_figures",
]

#: Share of the original's gradients that count as edges; how far an image's own edge may lie; how far it may reach.
_EDGE_SHARE, _EDGE_SHIFT, _EDGE_REACH = 0.07, 3, 8

#: Standard deviation in pixels of the Gaussian mean that grain stands out from.
_GRAIN_SIGMA = 1.0

#: Levels of the pyramid, finest first; side of a patch; random directions (each also transposed); patches at most.
_LEVELS, _PATCH, _DIRECTIONS, _MAX_PATCHES = ("fine", "middle", "coarse"), 7, 32, 16384

#: Steps between patches: none shares a factor with 2, 3 or 4, so that all places in a block are seen.
_STRIDES = (1, 5, 7, 11, 13, 17, 19, 23, 29, 31)

#: Rings of equal width up to Nyquist (0.5 cycles a pixel).
N_RINGS = 32

_PATCHES = (
    "Sliced Wasserstein distance (Rabin et al. 2011; on patches of a pyramid as Karras et al. 2018, arXiv 1710.10196, "
    f"section 5) between the {_PATCH}x{_PATCH} patches of result and original: mean over {2 * _DIRECTIONS} fixed "
    "random directions of the mean absolute difference of the sorted projections, over the original's standard "
    "deviation on that level of the Laplacian pyramid (binomial filter). 0 for the same texture; 0.4 (sparse) to 0.8 "
    "(as noise) where there is none. "
)

#: Definition of each figure.
STRUCTURE_DEFINITIONS: dict[str, str] = {
    "edge_width": "Width of edges over the original's. Edges lie where, along rows or columns, the original is steeper "
    f"than within {_EDGE_SHIFT} pixels around, and among the strongest {100 * _EDGE_SHARE:.0f} % of its differences "
    f"between neighbours. Each image's own edge is its steepest slope of the same sign within {_EDGE_SHIFT} pixels; "
    f"its width is the rise (as far as the profile goes on rising, {_EDGE_REACH} pixels to each side at most) over "
    "that slope; median over edges, over the original's median.",
    "lattice": "Mean squared Laplacian (4 neighbours) by place in the block of one source pixel: standard deviation "
    "over the places, over their mean. A pattern locked to the source's pixels.",
    "lattice_ratio": "Lattice over the original's.",
    "flat_noise": "Grain over the original's: root mean square of the difference from a Gaussian mean (standard "
    f"deviation {_GRAIN_SIGMA:g} pixel) in the {N_TILES} flattest tiles of {TILE_SIDE}x{TILE_SIDE} pixels of the "
    "original, chosen as for the native figures.",
    "patch_distance_fine": _PATCHES + "This is the finest level (about 0.25 to 0.5 cycles a pixel).",
    "patch_distance_middle": _PATCHES + "This is the second level (about 0.125 to 0.25 cycles a pixel).",
    "patch_distance_coarse": _PATCHES + "This is the third level (about 0.06 to 0.125 cycles a pixel).",
    "ring_correlation": "Fourier ring correlation with the original (Hann window, mean removed), mean over the rings "
    f"({N_RINGS} up to 0.5 cycles a pixel) above the source's Nyquist frequency of 0.5/factor: 1 where all fine detail "
    "is true, 0 where none is.",
}

#: What each figure should be.
STRUCTURE_GOALS: dict[str, str] = {
    "edge_width": "1",
    "lattice": "the original's",
    "lattice_ratio": "1",
    "flat_noise": "1 at most",
    "patch_distance_fine": "0",
    "patch_distance_middle": "0",
    "patch_distance_coarse": "0",
    "ring_correlation": "1",
}


def structure_figures(image: Tensor, reference: Tensor, factor: int) -> dict[str, float]:
    """Figures of one slice beside its original.

    Args:
        image: (1, 1, H, W) in model range.
        reference: the original, likewise.
        factor: how many times the source's pixels are larger.

    Returns:
        One number for each of :data:`STRUCTURE_DEFINITIONS`; NaN where it is not defined (constant original, no
        tissue).

    Raises:
        SettingsError: when shapes differ or are not as above, or a side is shorter than two blocks.

    Example:
        >>> original = torch.randn(1, 1, 96, 96, generator=torch.Generator().manual_seed(0))
        >>> figures = structure_figures(original, original, factor=4)
        >>> [round(figures[name], 6) for name in ("edge_width", "lattice_ratio", "patch_distance_fine")]
        [1.0, 1.0, 0.0]
    """
    image, reference = (convert_to_tensor(x, torch.float64, track_meta=False) for x in (image, reference))
    _check(image, reference, factor)
    own, true = lattice(image, factor), lattice(reference, factor)
    distances = patch_distances(image, reference)
    return {
        "edge_width": edge_width(image, reference),
        "lattice": own,
        "lattice_ratio": own / true if true else math.nan,
        "flat_noise": flat_noise(image, reference),
        **{f"patch_distance_{level}": value for level, value in distances.items()},
        "ring_correlation": ring_correlation(image, reference, 0.5 / factor),
    }


def edge_width(image: Tensor, reference: Tensor) -> float:
    """Median width of edges over the original's, as defined in :data:`STRUCTURE_DEFINITIONS`; both (1, 1, H, W).

    Rise over steepest slope is 1.25 times the 10 to 90 % width of a straight ramp; the ratio does not change.
    """
    planes = [(image[0, 0], reference[0, 0]), (image[0, 0].T, reference[0, 0].T)]
    strength = torch.cat([truth.diff(dim=-1).abs().flatten() for _, truth in planes])
    threshold = strength.sort().values[math.floor((1.0 - _EDGE_SHARE) * (strength.numel() - 1))]
    own, true = [], []
    for plane, truth in planes:
        slope = truth.diff(dim=-1)
        steep = slope.abs()
        peak = steep >= functional.max_pool1d(steep[:, None], 2 * _EDGE_SHIFT + 1, 1, _EDGE_SHIFT)[:, 0]
        rows, columns = torch.nonzero(peak & (steep >= threshold) & (steep > 0), as_tuple=True)
        sign = slope[rows, columns].sign()
        own.append(_widths(plane, rows, columns, sign))
        true.append(_widths(truth, rows, columns, sign))
    found = torch.cat(own)
    return float(found.median() / torch.cat(true).median()) if len(found) else math.nan


def lattice(image: Tensor, factor: int) -> float:
    """Spread of the mean squared Laplacian over the places in a block, over its mean; (1, 1, H, W).

    Pixels beyond the last whole block, and those of the border, are left out.

    Example:
        >>> smooth = torch.arange(64.0).square().expand(1, 1, 64, 64)
        >>> lattice(smooth, 4)
        0.0
    """
    padded = functional.pad(image.double(), (1, 1, 1, 1), mode="reflect")
    sides = padded[..., :-2, 1:-1] + padded[..., 2:, 1:-1] + padded[..., 1:-1, :-2] + padded[..., 1:-1, 2:]
    square = (sides - 4.0 * image).square()
    height, width = (n // factor * factor for n in square.shape[-2:])
    inner = square[..., factor : height - factor, factor : width - factor]
    by_place = functional.pixel_unshuffle(inner, factor).mean(dim=(0, 2, 3))
    return float(by_place.std(correction=0) / by_place.mean())


def flat_noise(image: Tensor, reference: Tensor) -> float:
    """Grain in flat places over the original's, as defined in :data:`STRUCTURE_DEFINITIONS`; both (1, 1, H, W)."""
    corners = flattest_tiles(reference)
    if not corners:
        return math.nan
    powers = [
        [float(grain[0, 0, top : top + TILE_SIDE, left : left + TILE_SIDE].square().mean()) for top, left in corners]
        for grain in (_grain(image), _grain(reference))
    ]
    own, true = (math.sqrt(sum(power) / len(power)) for power in powers)
    return own / true if true else math.nan


def patch_distances(image: Tensor, reference: Tensor) -> dict[str, float]:
    """Sliced Wasserstein distance of patches by level, as in :data:`STRUCTURE_DEFINITIONS`; both (1, 1, H, W).

    Returns:
        ``fine``, ``middle``, ``coarse``; NaN where the original has nothing on that level, or it is smaller than a
        patch.
    """
    directions = _directions().to(image.device)
    pairs = zip(_LEVELS, _laplacian_pyramid(image), _laplacian_pyramid(reference), strict=True)
    return {level: _sliced_distance(own, true, directions) for level, own, true in pairs}


def ring_correlation(image: Tensor, reference: Tensor, lowest: float) -> float:
    """Fourier ring correlation, mean over the rings whose middle lies above a frequency; both (1, 1, H, W).

    Saxton and Baumeister 1982 (J. Microscopy 127) and van Heel 1987.

    Args:
        image: result.
        reference: original.
        lowest: cycles a pixel.

    Returns:
        -1 to 1; rings where either has nothing count 0; NaN when the original has nothing in any of them.
    """
    height, width = image.shape[-2:]
    rows, columns = (torch.hann_window(n, dtype=torch.double, device=image.device) for n in (height, width))
    window = rows[:, None] * columns
    own, true = (torch.fft.fft2((x[0, 0].double() - x.double().mean()) * window) for x in (image, reference))
    ring = ring_numbers(height, width).to(image.device)
    products = ((own * true.conj()).real, own.abs().square(), true.abs().square())
    cross, power, truth = (_by_ring(product, ring) for product in products)
    chosen = (torch.arange(N_RINGS, device=image.device) + 0.5) / (2 * N_RINGS) > lowest
    # Under this share of the whole power there is only round-off.
    empty = (power <= 1e-24 * power.sum()) | (truth <= 1e-24 * truth.sum())
    if not bool((truth[chosen] > 1e-24 * truth.sum()).any()):
        return math.nan
    return float(torch.where(empty, 0.0, cross / (power * truth).sqrt())[chosen].mean())


def ring_numbers(height: int, width: int) -> Tensor:
    """Number of the ring of each Fourier coefficient, (H, W) int64; those beyond Nyquist have :data:`N_RINGS`."""
    rows, columns = (torch.fft.fftfreq(n, dtype=torch.double) for n in (height, width))
    return (torch.hypot(rows[:, None], columns[None, :]) * 2 * N_RINGS).long().clamp(max=N_RINGS)


def _check(image: Tensor, reference: Tensor, factor: int) -> None:
    if image.shape != reference.shape or image.ndim != 4 or image.shape[:2] != (1, 1):
        raise SettingsError(
            f"The result has shape {tuple(image.shape)} and the original {tuple(reference.shape)}, but both are to be "
            "(1, 1, H, W). Pass slices one by one."
        )
    if min(image.shape[-2:]) < max(3 * factor, 24):
        raise SettingsError(f"The slice has shape {tuple(image.shape)}, which is too small to measure structure.")


def _widths(plane: Tensor, rows: Tensor, columns: Tensor, sign: Tensor) -> Tensor:
    """Width in pixels of the edge nearest to each place along the last axis, (edges,); infinite where there is none."""
    slope = functional.pad(plane.diff(dim=-1), (_EDGE_SHIFT + _EDGE_REACH,) * 2)
    n = torch.arange(2 * (_EDGE_SHIFT + _EDGE_REACH) + 1, device=plane.device)
    profile = slope[rows[:, None], columns[:, None] + n] * sign[:, None]
    near = profile[:, _EDGE_REACH : _EDGE_REACH + 2 * _EDGE_SHIFT + 1]
    steepest, place = near.max(dim=1)
    steps = torch.arange(1, _EDGE_REACH + 1, device=plane.device)
    middle = (place + _EDGE_REACH)[:, None]
    rise = steepest
    for side in (middle + steps, middle - steps):
        step = profile.gather(1, side)
        rise = rise + (step * (step > 0).cumprod(dim=1)).sum(dim=1)
    return torch.where(steepest > 0, rise / steepest, math.inf)


def _grain(image: Tensor) -> Tensor:
    return image - _filtered(image, _gaussian_kernel(_GRAIN_SIGMA).to(image))


def _gaussian_kernel(sigma: float) -> Tensor:
    radius = math.ceil(3 * sigma)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.double) / sigma) ** 2)
    return kernel / kernel.sum()


def _filtered(image: Tensor, kernel: Tensor) -> Tensor:
    """(1, 1, H, W) filtered along both axes, reflected at the border."""
    radius = len(kernel) // 2
    padded = functional.pad(image, (radius,) * 4, mode="reflect")
    return functional.conv2d(functional.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))


def _laplacian_pyramid(image: Tensor) -> list[Tensor]:
    """Band-pass levels, finest first (Burt and Adelson 1983); what remains below them is the source's and left out."""
    kernel = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]).to(image) / 16.0
    levels = []
    for _ in _LEVELS:
        smaller = _filtered(image, kernel)[..., ::2, ::2]
        spread = torch.zeros_like(image)
        spread[..., ::2, ::2] = smaller
        levels.append(image - _filtered(spread, 2.0 * kernel))
        image = smaller
    return levels


def _directions() -> Tensor:
    """Fixed unit vectors, (directions, patch pixels): each upright and transposed, so that neither axis leads."""
    drawn = torch.randn(_DIRECTIONS, _PATCH, _PATCH, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    both = torch.cat([drawn, drawn.transpose(1, 2)]).flatten(1)
    return functional.normalize(both, dim=1)


def _sliced_distance(own: Tensor, true: Tensor, directions: Tensor) -> float:
    spread = true.std(correction=0)
    if min(true.shape[-2:]) < _PATCH or not spread > 0:
        return math.nan
    first, second = (_projected(image, directions) for image in (own, true))
    return float((first - second).abs().mean() / spread)


def _projected(image: Tensor, directions: Tensor) -> Tensor:
    """Sorted projections of the patches, (directions, patches)."""
    places = [n - _PATCH + 1 for n in image.shape[-2:]]
    fitting = [s for s in _STRIDES if math.ceil(places[0] / s) * math.ceil(places[1] / s) <= _MAX_PATCHES]
    kernels = directions.view(-1, 1, _PATCH, _PATCH).to(image)
    projected = functional.conv2d(image, kernels, stride=fitting[0] if fitting else _STRIDES[-1])
    return projected.flatten(2)[0].sort(dim=1).values


def _by_ring(values: Tensor, ring: Tensor) -> Tensor:
    """Sum over each ring, (rings,)."""
    return values.new_zeros(N_RINGS + 1).index_add(0, ring.flatten(), values.flatten())[:N_RINGS]
