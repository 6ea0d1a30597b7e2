"""Training losses that ask for sharpness beside closeness."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["LatentCodecLoss", "WeightedVelocityLoss"]


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
