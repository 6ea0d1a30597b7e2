"""Training losses that ask for sharpness beside closeness."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from monai_ldmsr.degradation import AreaOperator
from monai_ldmsr.networks.latent_generator import Prediction

__all__ = ["GeneratorLoss", "LatentCodecLoss", "NoiseLoss", "PartialPrediction", "WeightedVelocityLoss"]


class PartialPrediction(NamedTuple):
    """What a loss holds to the original; what is None is not held to anything.

    Args:
        mean: as in a ``Prediction``.
        log_scale: likewise.
        sample: likewise.
        unprojected: (B, n, H, W) images as the network left them, before they were made to agree with the source.
    """

    mean: Tensor | None = None
    log_scale: Tensor | None = None
    sample: Tensor | None = None
    unprojected: Tensor | None = None


class LatentCodecLoss(nn.Module):
    """L1, plus L1 between Laplacians, plus distance of log spectra, plus KL divergence of the posterior.

    Args:
        laplacian_weight: weight of the Laplacian term.
        spectrum_weight: weight of the mean absolute difference of ``log(|FFT| + 1)``.
        kl_weight: weight of the KL divergence from the standard normal, mean over latent elements.
    """

    kernel: Tensor

    def __init__(self, laplacian_weight: float = 0.3, spectrum_weight: float = 0.02, kl_weight: float = 0.005) -> None:
        super().__init__()
        self.laplacian_weight = laplacian_weight
        self.spectrum_weight = spectrum_weight
        self.kl_weight = kl_weight
        kernel = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
        self.register_buffer("kernel", kernel[None, None])

    def forward(self, outputs: dict[str, Tensor], target: Tensor) -> Tensor:
        """Scalar loss of ``{"image", "mean", "sigma"}`` against the slice (B, 1, H, W)."""
        image, mean, sigma = outputs["image"], outputs["mean"], outputs["sigma"]
        difference = functional.conv2d(image - target, self.kernel)
        spectrum = [(torch.fft.rfft2(x, norm="ortho").abs() + 1.0).log() for x in (image, target)]
        # Kingma and Welling 2013, arXiv 1312.6114, appendix B.
        divergence = 0.5 * (mean.square() + sigma.square() - sigma.square().log() - 1.0).mean()
        return (
            functional.l1_loss(image, target)
            + self.laplacian_weight * difference.abs().mean()
            + self.spectrum_weight * functional.l1_loss(*spectrum)
            + self.kl_weight * divergence
        )


class WeightedVelocityLoss(nn.Module):
    """Mean squared velocity error, each latent channel weighed by its share in the image.

    In units of each channel's own residual all channels look alike, noise too. Weights ``residual_std ** power`` (of
    the raw latent, mean 1) spend the network's capacity where the image changes most; the optimum itself does not
    depend on positive weights.
    """

    def forward(self, outputs: dict[str, Tensor], target: Tensor) -> Tensor:
        """Scalar loss of ``{"velocity", "goal", "weight"}``; ``target`` (the slice) is not used."""
        del target
        error = (outputs["velocity"] - outputs["goal"]).square()
        return (error * outputs["weight"][:, None, None]).mean()


class NoiseLoss(nn.Module):
    """Mean squared error of what a diffusion predicts (Ho et al. 2020, arXiv 2006.11239, equation 14)."""

    def forward(self, outputs: dict[str, Tensor], target: Tensor) -> Tensor:
        """Scalar loss of ``{"predicted", "goal"}``; ``target`` (the slice) is not used."""
        del target
        return functional.mse_loss(outputs["predicted"], outputs["goal"])


class GeneratorLoss(nn.Module):
    """What a mean, its expected error and a sample are held to, beside the critic.

    - The mean: squared error.
    - Its expected absolute error ``s``: ``|e| / s + log s``, least where ``s`` is the mean of ``|e|`` (the likelihood
      of a Laplace distribution).
    - The sample: L1 distance, and three that look at what a critic lets pass. *Texture*: sliced Wasserstein distance of
      7x7 patches in windows, on levels of a Laplacian pyramid (Karras et al. 2018, arXiv 1710.10196, section 5), so
      grain must have the original's distribution and not only its energy. *Artifacts*: L1 distance weighed by local
      variance of the error, where the sample errs more than the mean (after LDL, Liang et al. 2022, arXiv 2203.09195,
      equations 5 to 8, with the mean as the stable model).
    - Sample and mean: *lattice*, the mean by place in the block of pixels over windows, against the original's; and
      *offset*, L1 distance of the means over blocks before the projection, which would hide it where it takes place.

    Args:
        mean_weight: weight of the mean's squared error.
        scale_weight: weight of its expected error's likelihood.
        pixel_weight: weight of the sample's L1 distance.
        texture_weight: weight of its sliced Wasserstein distance.
        artifact_weight: weight of its weighed L1 distance.
        lattice_weight: weight of both images' lattice.
        offset_weight: weight of both images' offset.
        projections: random filters a level and step.
    """

    #: Side of the windows in which distributions are compared, levels of the pyramid, side of a patch.
    _WINDOW, _LEVELS, _PATCH = 48, 3, 7

    #: Blocks of pixels in a lattice window, and neighbourhood of the local variance.
    _LATTICE_BLOCKS, _NEIGHBOURHOOD = 12, 7

    def __init__(
        self,
        mean_weight: float = 30.0,
        scale_weight: float = 0.005,
        pixel_weight: float = 0.5,
        texture_weight: float = 1.0,
        artifact_weight: float = 1.0,
        lattice_weight: float = 15.0,
        offset_weight: float = 1.0,
        projections: int = 12,
    ) -> None:
        super().__init__()
        self.mean_weight = mean_weight
        self.scale_weight = scale_weight
        self.pixel_weight = pixel_weight
        self.texture_weight = texture_weight
        self.artifact_weight = artifact_weight
        self.lattice_weight = lattice_weight
        self.offset_weight = offset_weight
        self.projections = projections

    def forward(
        self, prediction: Prediction | PartialPrediction, target: Tensor, factors: tuple[float, float]
    ) -> dict[str, Tensor]:
        """Weighed terms by name.

        Args:
            prediction: what the network says; what it leaves out (None) has no term.
            target: (B, 1, H, W) originals in model range.
            factors: factors of rows and columns; whole ones have a lattice.
        """
        mean, log_scale, sample, unprojected = (
            None if x is None else x.float() for x in PartialPrediction(*prediction)
        )
        terms: dict[str, Tensor] = {}
        if mean is not None:
            terms["mean_loss"] = self.mean_weight * functional.mse_loss(mean, target)
        if mean is not None and log_scale is not None:
            error = (mean.detach() - target).abs()
            terms["scale_loss"] = self.scale_weight * (error * (-log_scale).exp() + log_scale).mean()
        if sample is not None:
            terms["pixel_loss"] = self.pixel_weight * functional.l1_loss(sample, target)
            terms["texture_loss"] = self.texture_weight * self.texture_distance(sample, target)
            if mean is not None:
                terms["artifact_loss"] = self.artifact_weight * self.artifacts(sample, mean.detach(), target)
        images = [image for image in (mean, sample) if image is not None]
        if self.lattice_weight and images and all(f == int(f) for f in factors):
            block = (int(factors[0]), int(factors[1]))
            lattice = sum(functional.l1_loss(self.by_place(x, block), self.by_place(target, block)) for x in images)
            terms["lattice_loss"] = self.lattice_weight * torch.as_tensor(lattice)
        if self.offset_weight and unprojected is not None:
            offset = AreaOperator(factors)(unprojected - target)
            terms["offset_loss"] = self.offset_weight * unprojected.shape[1] * offset.abs().mean()
        return terms

    def texture_distance(self, image: Tensor, target: Tensor) -> Tensor:
        """Sliced Wasserstein distance of patches between (B, 1, H, W) images, window by window; random directions."""
        both, total = torch.cat([image, target]), image.new_zeros(())
        window = self._WINDOW
        for level in range(self._LEVELS):
            smooth = functional.avg_pool2d(both, 2) if level < self._LEVELS - 1 else both[..., :0, :0]
            detail = both - functional.interpolate(smooth, scale_factor=2, mode="bilinear") if smooth.numel() else both
            filters = torch.randn(self.projections, 1, self._PATCH, self._PATCH, device=image.device)
            filters = filters - filters.mean(dim=(2, 3), keepdim=True)
            filters = filters / filters.flatten(1).norm(dim=1)[:, None, None, None]
            found = functional.conv2d(_windows(detail, window), filters).flatten(2)
            mine, theirs = found.sort(dim=-1).values.chunk(2)
            total = total + functional.l1_loss(mine, theirs)
            both, window = smooth, max(window // 2, 24)
        return total

    def artifacts(self, sample: Tensor, mean: Tensor, target: Tensor) -> Tensor:
        """L1 distance where the sample errs more than the mean, weighed by how uneven the error is around."""
        error = sample - target
        with torch.no_grad():
            side, around = self._NEIGHBOURHOOD, self._NEIGHBOURHOOD // 2
            pool = [functional.avg_pool2d(x, side, 1, around, count_include_pad=False) for x in (error, error.square())]
            local = (pool[1] - pool[0].square()).clamp(min=0.0)
            whole = error.flatten(1).var(dim=1).pow(0.2)[:, None, None, None]
            weight = (local * whole).masked_fill(error.abs() < (mean - target).abs(), 0.0)
            weight = weight / weight.mean().clamp(min=1e-8)
        return (weight.clamp(max=20.0) * error.abs()).mean()

    def by_place(self, image: Tensor, block: tuple[int, int]) -> Tensor:
        """Mean of (pixel - mean of its block) by place in the block, over windows: what a lattice is made of."""
        rows, columns = block
        count, _, height, width = image.shape
        cells = image.reshape(count, height // rows, rows, width // columns, columns)
        cells = cells.permute(0, 2, 4, 1, 3).reshape(count, rows * columns, height // rows, width // columns)
        window = [min(self._LATTICE_BLOCKS, n) for n in cells.shape[-2:]]
        return functional.avg_pool2d(cells - cells.mean(dim=1, keepdim=True), window)


def _windows(image: Tensor, side: int) -> Tensor:
    """Cut (B, 1, H, W) into squares that do not overlap, (B n, 1, side, side); what is left over is left out."""
    side = min(side, *image.shape[-2:])
    rows, columns = (n // side for n in image.shape[-2:])
    cut = image[..., : rows * side, : columns * side].reshape(-1, rows, side, columns, side)
    return cut.permute(0, 1, 3, 2, 4).reshape(-1, 1, side, side)
