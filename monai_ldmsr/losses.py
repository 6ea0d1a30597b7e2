"""Training losses that ask for sharpness beside closeness."""

from __future__ import annotations

import math

import torch
from monai.losses import PatchAdversarialLoss
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["AdversarialLoss", "LatentCodecLoss", "SharpFidelityLoss", "WeightedVelocityLoss"]


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


class SharpFidelityLoss(nn.Module):
    """L1 distance of a sample, squared distance of the mean where there is one, and distance of radial spectra.

    The spectrum term is the mean absolute difference of log power over rings of the two-dimensional spectrum, one
    crop at a time: it asks for as much detail at each scale as the original has, but not for where it lies.

    Args:
        pixel_weight: weight of the L1 distance.
        spectrum_weight: weight of the spectrum term.
        mean_weight: weight of the mean's squared distance; it keeps the first evaluation truthful.
        rings: rings between ``lowest`` and half the sampling rate.
        lowest: inner radius in cycles a pixel.
    """

    #: Power of grey noise of standard deviation 1 of 255 in model range: what lies under it is no detail.
    _FLOOR = (2 / 255) ** 2

    def __init__(
        self,
        pixel_weight: float = 1.0,
        spectrum_weight: float = 0.02,
        mean_weight: float = 10.0,
        rings: int = 8,
        lowest: float = 0.1,
    ) -> None:
        super().__init__()
        self.pixel_weight = pixel_weight
        self.spectrum_weight = spectrum_weight
        self.mean_weight = mean_weight
        self.rings = rings
        self.lowest = lowest

    def forward(self, images: Tensor, target: Tensor) -> Tensor:
        """Scalar loss of (B, 1, H, W) samples, or (B, 2, H, W) samples and means, against (B, 1, H, W)."""
        sample, mean = images[:, :1], images[:, 1:]
        loss = self.pixel_weight * functional.l1_loss(sample, target)
        if mean.shape[1]:
            loss = loss + self.mean_weight * functional.mse_loss(mean, target)
        if self.spectrum_weight:
            spectra = [self.radial_log_power(x) for x in (sample, target)]
            loss = loss + self.spectrum_weight * functional.l1_loss(spectra[0], spectra[1])
        return loss

    def radial_log_power(self, image: Tensor) -> Tensor:
        """Log of the mean power in each ring, (B, rings), of (B, 1, H, W)."""
        height, width = image.shape[-2:]
        window = torch.outer(torch.hann_window(height), torch.hann_window(width)).to(image)
        centred = image - image.mean(dim=(-2, -1), keepdim=True)
        power = torch.fft.rfft2(centred * window, norm="ortho").abs().square().flatten(start_dim=1)
        rows, columns = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None, :]
        radius = torch.hypot(rows, columns).flatten().to(image)
        index = ((radius - self.lowest) / (math.sqrt(0.5) - self.lowest) * self.rings).floor().long()
        chosen = index >= 0
        index = index[chosen].clamp(max=self.rings - 1)
        total = power.new_zeros(len(power), self.rings).index_add(1, index, power[:, chosen])
        count = power.new_zeros(self.rings).index_add(0, index, torch.ones_like(index, dtype=power.dtype))
        level: Tensor = (total / count + self._FLOOR * window.square().mean()).log()
        return level


class AdversarialLoss(nn.Module):
    """MONAI's ``PatchAdversarialLoss`` as ``AdversarialTrainer`` calls it: one argument or two.

    Args:
        weight: weight of the generator's loss; the critic's own is not weighed.
        criterion: ``hinge``, ``least_squares`` or ``bce``.
    """

    def __init__(self, weight: float = 0.05, criterion: str = "least_squares") -> None:
        super().__init__()
        self.weight = weight
        self.loss = PatchAdversarialLoss(criterion=criterion, no_activation_leastsq=True)

    def forward(self, *logits: Tensor) -> Tensor:
        """Generator's loss of (fake logits), or critic's loss of (real logits, fake logits)."""
        if len(logits) == 1:
            result: Tensor = self.weight * self.loss(logits[0], target_is_real=True, for_discriminator=False)
            return result
        real, fake = logits
        both: Tensor = self.loss(real, target_is_real=True, for_discriminator=True) + self.loss(
            fake, target_is_real=False, for_discriminator=True
        )
        return 0.5 * both
