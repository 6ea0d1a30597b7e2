"""What one training step computes, as modules that MONAI's ``SupervisedTrainer`` can call."""

from __future__ import annotations

import math
import time
from functools import cache
from itertools import islice

import torch
from monai.networks.schedulers import RFlowScheduler, Scheduler
from torch import Tensor, nn

from monai_ldmsr.networks.conditional_unet import ConditionalUNet, describe_degradation
from monai_ldmsr.networks.latent_codec import LatentCodec
from monai_ldmsr.networks.plain_diffusion import PlainGenerator
from monai_ldmsr.training.patches import RandomPatches

__all__ = [
    "CodecObjective",
    "FlowObjective",
    "NoiseObjective",
    "fit_latent_statistics",
    "prepare_codec_batch",
    "prepare_flow_batch",
]

#: Batches that statistics are measured on at least.
_FEWEST_BATCHES = 8


class CodecObjective(nn.Module):
    """Reconstruct slices through a sampled latent of the codec that is trained."""

    def __init__(self, codec: LatentCodec) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Encode, sample, decode (B, 1, H, W)."""
        mean, sigma = self.codec.posterior(image)
        latent = mean + sigma * torch.randn_like(sigma)
        return {"image": self.codec.reconstruct(latent), "mean": mean, "sigma": sigma}


class FlowObjective(nn.Module):
    """Velocity of the anchored flow at a random time, for a frozen codec.

    The path is the straight one of :mod:`monai_ldmsr.samplers.anchored_flow`, mixed by MONAI's ``RFlowScheduler``.

    Args:
        codec: trained codec with its statistics; stays as it is.
        denoiser: the network to train.
        start_noise: standard deviation of the start, in units of the residual's.
        first_step_share: share of samples at the very start of the flow, where every sampling begins and where the
            posterior mean is learned. The others lie evenly along the flow.
        noise_free_share: share of those that start without noise, which gives the truest mean.
        weight_power: exponent of the channel weights, see ``WeightedVelocityLoss``.
    """

    def __init__(
        self,
        codec: LatentCodec,
        denoiser: ConditionalUNet,
        start_noise: float = 0.7,
        first_step_share: float = 0.4,
        noise_free_share: float = 0.5,
        weight_power: float = 1.0,
    ) -> None:
        super().__init__()
        self.codec = codec.requires_grad_(False)
        self.denoiser = denoiser
        self.start_noise = start_noise
        self.first_step_share = first_step_share
        self.noise_free_share = noise_free_share
        self.weight_power = weight_power

    def forward(self, image: Tensor, label: Tensor, degradation: Tensor) -> dict[str, Tensor]:
        """Predict at a random time.

        Args:
            image: (B, 1, H, W) interpolated low-resolution patch in model range.
            label: (B, 1, H, W) high-resolution patch in model range.
            degradation: (B, CONDITIONS) of ``describe_degradation``.
        """
        with torch.no_grad():
            condition = self.codec.encode(image)
            residual = (self.codec.encode(label) - condition) / self.codec.residual_std[:, None, None]
            timesteps = _scheduler().sample_timesteps(residual)
            draw = torch.rand_like(timesteps)
            timesteps = timesteps.masked_fill(draw < self.first_step_share, 1000.0)
            start = self.start_noise * torch.randn_like(residual)
            noise_free = draw < self.first_step_share * self.noise_free_share
            start = start.masked_fill(noise_free.view(-1, 1, 1, 1), 0.0)
            state = _scheduler().add_noise(residual, start, timesteps)
        velocity = self.denoiser(state, condition, timesteps, degradation)
        return {"velocity": velocity, "goal": residual - start, "weight": self._weight()}

    def _weight(self) -> Tensor:
        share = (self.codec.residual_std * self.codec.latent_std) ** self.weight_power
        return share / share.mean()


class NoiseObjective(nn.Module):
    """The noise in latents at a random step of a diffusion (Ho et al. 2020, arXiv 2006.11239, equation 14).

    Args:
        generator: the networks; the codec is trained and stays as it is.
        scheduler: MONAI's, which says how much noise each step has, and in which form the network predicts it.
    """

    def __init__(self, generator: PlainGenerator, scheduler: Scheduler) -> None:
        super().__init__()
        self.generator = generator
        self._schedulers = [scheduler]  # not a submodule, see PlainDiffusion

    def forward(self, image: Tensor, label: Tensor, degradation: Tensor) -> dict[str, Tensor]:
        """Predict; arguments as for :class:`FlowObjective`."""
        scheduler = self._schedulers[0]
        steps = torch.randint(scheduler.num_train_timesteps, (len(image),), device=image.device)
        predicted, goal = self.generator.predict(scheduler, label, image, degradation, steps)
        return {"predicted": predicted, "goal": goal}


@torch.no_grad()
def fit_latent_statistics(
    codec: LatentCodec, patches: RandomPatches, batches: int = 60, most_s: float = math.inf
) -> None:
    """Measure mean and spread of latents, and of what low resolution lacks, and store them in the codec.

    Args:
        codec: trained; changed in place.
        patches: batches that it is measured on.
        batches: how many of them.
        most_s: seconds after which fewer are enough, but not fewer than eight.
    """
    device, start = next(codec.parameters()).device, time.monotonic()
    raw: list[tuple[Tensor, ...]] = []
    for batch in islice(patches, batches):
        raw.append(tuple(codec.posterior(batch[key].to(device))[0] for key in ("label", "image")))
        if len(raw) >= min(batches, _FEWEST_BATCHES) and time.monotonic() - start > most_s:
            break
    high, low = (torch.cat([_flat(pair[n]) for pair in raw]) for n in (0, 1))
    std = high.std(dim=0).clamp(min=1e-4)
    residual = (high - low) / std
    codec.set_statistics(high.mean(dim=0), std, residual.square().mean(dim=0).sqrt().clamp(min=1e-3))


def _flat(latent: Tensor) -> Tensor:
    return latent.transpose(0, 1).flatten(start_dim=1).T


@cache
def _scheduler() -> RFlowScheduler:
    # Not an attribute of the objective: MONAI's RFlowScheduler is a Module that never initialised itself as one, so
    # that moving a network that owns it to a device fails.
    return RFlowScheduler(use_discrete_timesteps=False, sample_method="uniform")


def prepare_codec_batch(
    batch: dict[str, Tensor], device: torch.device, non_blocking: bool, **_: object
) -> tuple[Tensor, Tensor]:
    """Input and target of the codec: the high-resolution patch, twice."""
    label = batch["label"].to(device, non_blocking=non_blocking, memory_format=torch.channels_last)
    return label, label


def prepare_flow_batch(
    batch: dict[str, Tensor], device: torch.device, non_blocking: bool, **_: object
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor], dict[str, object]]:
    """Input, target, and what else the flow objective takes: the high-resolution patch and how it was degraded."""
    keys = ("image", "label", "factor", "operator", "noise")
    image, label, *degradation = (batch[key].to(device, non_blocking=non_blocking) for key in keys)
    return image, label, (label, describe_degradation(*degradation)), {}
