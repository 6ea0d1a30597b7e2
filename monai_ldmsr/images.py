"""Super-resolve images that lie in memory: for notebooks and pipelines."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from monai.data import MetaTensor
from torch import Tensor

from monai_ldmsr.bundle_config import unwrapped
from monai_ldmsr.errors import SettingsError
from monai_ldmsr.image_output import notice_of
from monai_ldmsr.io.limits import DEFAULT_LIMITS
from monai_ldmsr.io.memory_images import array_volume, image_volume, result_image
from monai_ldmsr.settings import WorkSettings, takes_settings
from monai_ldmsr.workflow import open_evaluator

__all__ = ["super_resolve_image"]

#: An array (I, J, K) or slice (I, J), a tensor of that shape or (1, I, J, K), an image of nibabel or SimpleITK.
Image = TypeVar("Image")


@takes_settings
def super_resolve_image(
    image: Image,
    *,
    affine: npt.ArrayLike | None = None,
    spacing_mm: Sequence[float] | None = None,
    progress: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> Image:
    """Super-resolve an image in memory, as :func:`~monai_ldmsr.super_resolve` does a file with the same voxels.

    Results are for research only, not for diagnosis; headers of nibabel, SimpleITK (``ITK_FileNotes``) and MONAI
    (``description``) say so, an array or plain tensor has no place for it.

    Args:
        image: nibabel's or SimpleITK's image, MONAI's ``MetaTensor`` (1, I, J, K), or an array or tensor (I, J, K), of
            which each ``[:, :, k]`` is a slice: one that lies as (slices, rows, columns) is given as
            ``image.transpose(2, 1, 0)``. One slice (I, J) will do. CT is in HU.
        affine: (4, 4) from voxel index to RAS in mm, of an array or plain tensor; the result then is a ``MetaTensor``
            with its own affine.
        spacing_mm: distance of its voxels along I, J and K, in place of ``affine``.
        progress: called after each batch of slices: how many are done, and how many there are.
        settings: all of ``WorkSettings``.

    Returns:
        An image of the same kind with ``factor`` times the rows and columns between the same outer faces. Integers stay
        of their type, rounded and clipped; floats become float32. What a report would warn of is logged,
        as what is forced is; ``maps`` and ``tolerance`` are for results in files.

    Raises:
        SettingsError: an argument is outside what is possible, or no image of a known kind was given.
        SourceError: ``UNSUPPORTED_DIMENSIONS``, ``UNSUPPORTED_PIXELS``, ``NOT_FINITE``, ``TOO_LARGE``,
            ``SINGULAR_GEOMETRY``, or ``OUT_OF_RANGE`` without ``force``.
        WeightsError: the weights are missing or altered.

    Example:
        >>> import nibabel
        >>> image = nibabel.load("sample_data/nifti/mr_t1.nii.gz")  # doctest: +SKIP
        >>> super_resolve_image(image, factor=2, modality="MR").shape  # doctest: +SKIP
        (512, 512, 20)
    """
    chosen = WorkSettings(**settings)
    limits = chosen.limits or DEFAULT_LIMITS
    plain, place = _plain(image), _place(image, affine, spacing_mm)
    is_array = isinstance(plain, np.ndarray)
    if is_array and place is None and chosen.slices.is_wanted and chosen.factor_slices is None:
        raise SettingsError("An array does not say how far apart its slices lie. Give spacing_mm, or factor_slices.")
    source = array_volume(plain, place, limits) if is_array else image_volume(plain, limits)
    evaluator = open_evaluator(None, Path(), replace(chosen, maps="none", tolerance=None))
    with unwrapped():
        data, _, described = evaluator.compute(source, progress)
    for warning in (*data["outside"], *data["source"].warnings):
        logging.getLogger(__name__).warning("%s", warning)
    voxels, notice = data["pred"].as_tensor()[0].numpy(), notice_of(described)
    plan, factors = data.get("pred_plan"), evaluator.network.factors
    grid = factors if plan is None else plan.grid(factors)
    result: Any = result_image(plain, voxels, source, grid, notice)
    if isinstance(image, Tensor) or place is not None:
        tensor = torch.from_numpy(np.ascontiguousarray(result))
        tensor = tensor[None] if getattr(image, "ndim", 0) == 4 else tensor
        result = (
            tensor if place is None else MetaTensor(tensor, affine=data["pred"].affine, meta={"description": notice})
        )
    found: Image = result
    return found


def _plain(image: Any) -> Any:
    """A tensor as array; anything else is left as it is."""
    if not isinstance(image, Tensor):
        return image
    array = image.as_tensor() if isinstance(image, MetaTensor) else image
    array = array.float() if array.dtype == torch.bfloat16 else array
    return (array[0] if array.ndim == 4 and len(array) == 1 else array).detach().cpu().numpy()


def _place(image: Any, affine: npt.ArrayLike | None, spacing_mm: Sequence[float] | None) -> Any:
    """Affine of an array or tensor; None where nothing gives it."""
    given = [name for name, value in (("affine", affine), ("spacing_mm", spacing_mm)) if value is not None]
    has_own = not isinstance(image, np.ndarray) and (not isinstance(image, Tensor) or isinstance(image, MetaTensor))
    if given and has_own:
        raise SettingsError(f"The image says itself where its voxels are. Leave {given[0]} away, or give an array.")
    if len(given) > 1:
        raise SettingsError("affine and spacing_mm are both given. Give one of them.")
    if spacing_mm is not None:
        return _affine_of(spacing_mm)
    if affine is not None and np.shape(affine) != (4, 4):
        raise SettingsError(f"affine has shape {np.shape(affine)}; give 4 x 4 numbers, from voxel index to RAS in mm.")
    return image.affine.numpy() if isinstance(image, MetaTensor) else affine


def _affine_of(spacing_mm: Sequence[float]) -> npt.NDArray[np.float64]:
    """Index to RAS in mm of voxels of that size, the first one at 0."""
    try:
        steps = np.asarray(spacing_mm, np.float64)
    except (TypeError, ValueError):
        steps = np.zeros(0)
    if steps.shape != (3,) or not (np.isfinite(steps).all() and (steps > 0).all()):
        raise SettingsError("spacing_mm is not three numbers above 0: the distance of voxels along I, J and K in mm.")
    return np.diag([*steps, 1.0])
