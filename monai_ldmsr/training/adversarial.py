"""Training against a critic: generators and batches as MONAI's ``AdversarialTrainer`` calls them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from monai_ldmsr.degradation import AreaOperator, operator_place, pseudo_inverse
from monai_ldmsr.networks import ConditionalUNet, LatentCodec, SRResNetGenerator
from monai_ldmsr.samplers import anchored_flow

__all__ = ["GeneratorObjective", "StudentObjective", "prepare_adversarial_batch"]


class StudentObjective(nn.Module):
    """Two evaluations of the denoiser, as the two-step sampler makes them: the posterior mean, then a sharp sample.

    The first evaluation starts at the low-resolution image and is held to the mean; the second starts halfway between
    noise and that mean and is trained against a critic. So the flow starts near the posterior mean, which costs least
    truth for its sharpness (PMRF, Ohayon et al. 2024, arXiv 2410.00418), and needs no further steps (adversarial
    distillation, compare Sauer et al. 2023, arXiv 2311.17042).

    Args:
        codec: trained codec with its statistics; stays as it is.
        denoiser: the network to train, best one that was trained by ``FlowObjective``.
        start_noise: standard deviation of the noise in the second evaluation's start, in units of the residual's.
    """

    def __init__(self, codec: LatentCodec, denoiser: ConditionalUNet, start_noise: float = 0.7) -> None:
        super().__init__()
        self.codec = codec.requires_grad_(False)
        self.denoiser = denoiser
        self.start_noise = start_noise

    def forward(self, label: Tensor, image: Tensor, low: Tensor, factor: Tensor, operator: Tensor) -> Tensor:
        """Super-resolve a batch of patches.

        Args:
            label: (B, 1, H, W) high resolution; not used.
            image: (B, 1, H, W) low resolution brought to the same grid, in model range.
            low: (B, 1, H/factor, W/factor) low resolution.
            factor: (B,), all alike.
            operator: (B,), all alike: place in ``degradation.OPERATORS``.

        Returns:
            (B, 2, H, W): the sample, projected onto a noise-free ``low`` as after the network in use, and the mean.
        """
        del label
        with torch.no_grad():
            condition = self.codec.encode(image)

        def velocity(state: Tensor, timesteps: Tensor) -> Tensor:
            predicted: Tensor = self.denoiser(state, condition, timesteps, factor, operator)
            return predicted

        noise = torch.randn_like(condition)
        mean = anchored_flow.posterior_mean(velocity, condition)
        sample = anchored_flow.refine_mean(velocity, mean.detach(), noise, 2, self.start_noise)
        latents = torch.cat([sample, mean]) * self.codec.residual_std[:, None, None] + condition.repeat(2, 1, 1, 1)
        sample, mean = self.codec.decode(latents).chunk(2)
        return torch.cat([_projected(sample, low, operator), mean], dim=1)


class GeneratorObjective(nn.Module):
    """The baselines' generator as both trainers call it.

    Args:
        generator: the network to train.
        bfloat16: its convolutions run in bfloat16, its weights stay as they are: a step takes 0.6 of the time on a CPU
            that has the instructions (avx512_bf16).
    """

    def __init__(self, generator: SRResNetGenerator, bfloat16: bool = False) -> None:
        super().__init__()
        self.generator = generator
        self._in_bfloat16 = bfloat16

    def forward(self, label: Tensor, image: Tensor, low: Tensor, factor: Tensor, operator: Tensor) -> Tensor:
        """Super-resolved patches (B, 1, H, W); arguments as those of :class:`StudentObjective`."""
        del label
        with torch.autocast(image.device.type, torch.bfloat16, enabled=self._in_bfloat16):
            result = self.generator.refine(image, factor)
        return _projected(result.float(), low, operator)


def _projected(result: Tensor, low: Tensor, operator: Tensor) -> Tensor:
    # As consistency.project_onto_source, but not in place: gradients pass through it. The other operators' batches
    # hold noise, and their point spread function is drawn anew each time: what agrees with them is not known.
    if int(operator[0]) != operator_place("area"):
        return result
    area = AreaOperator(result.shape[-1] // low.shape[-1])
    return result + pseudo_inverse(area, low - area(result))


def prepare_adversarial_batch(
    batch: dict[str, Tensor], device: torch.device, non_blocking: bool, **_: object
) -> tuple[Tensor, Tensor, tuple[Tensor, ...], dict[str, object]]:
    """Real patches twice (what the critic sees, what the loss compares with), and what generator and critic take."""
    keys = ("label", "image", "low", "factor", "operator")
    label, *others = (batch[key].to(device, non_blocking=non_blocking) for key in keys)
    return label, label, tuple(others), {}
