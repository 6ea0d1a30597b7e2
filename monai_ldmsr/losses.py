"""Training losses that ask for sharpness beside closeness."""

from __future__ import annotations

import torch
from monai.losses import PatchAdversarialLoss
from torch import Tensor, nn
from torch.nn import functional

from monai_ldmsr.networks.latent_codec import block_dct_basis

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
    """L1 distance of a sample, squared distance of the mean where there is one, and distance of local texture.

    Texture is the log energy in each band of a 4x4 DCT over windows of about 16 pixels. So the sample is asked for as
    much detail of each scale and direction as the original has *there*, noise included, but not for its course. A
    spectrum over the whole patch would be met by grain anywhere, and energy in one band alone by its cheapest pattern.

    Args:
        pixel_weight: weight of the L1 distance.
        texture_weight: weight of the mean absolute difference of log energies.
        mean_weight: weight of the mean's squared distance; it keeps the first evaluation truthful.
    """

    bands: Tensor

    #: Energy of grey noise of standard deviation 1 of 255 in model range: what lies under it is no texture.
    _FLOOR = (2 / 255) ** 2

    #: The DCT's block, its stride, and the side of a window in strides.
    _BLOCK, _STRIDE, _WINDOW = 4, 2, 7

    def __init__(self, pixel_weight: float = 1.0, texture_weight: float = 0.02, mean_weight: float = 10.0) -> None:
        super().__init__()
        self.pixel_weight = pixel_weight
        self.texture_weight = texture_weight
        self.mean_weight = mean_weight
        self.register_buffer("bands", block_dct_basis(self._BLOCK)[1:], persistent=False)

    def forward(self, images: Tensor, target: Tensor) -> Tensor:
        """Scalar loss of (B, 1, H, W) samples, or (B, 2, H, W) samples and means, against (B, 1, H, W)."""
        sample, mean = images[:, :1], images[:, 1:]
        loss = self.pixel_weight * functional.l1_loss(sample, target)
        if mean.shape[1]:
            loss = loss + self.mean_weight * functional.mse_loss(mean, target)
        if self.texture_weight:
            loss = loss + self.texture_weight * functional.l1_loss(self.texture(sample), self.texture(target))
        return loss

    def texture(self, image: Tensor) -> Tensor:
        """Log energies (B, 15, h, w) of (B, 1, H, W), one for each band but the constant, H and W at least 16."""
        coefficients = functional.conv2d(image, self.bands.to(image), stride=self._STRIDE)
        energy = functional.avg_pool2d(coefficients.square(), self._WINDOW, stride=self._WINDOW // 2)
        return (energy + self._FLOOR).log()


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
