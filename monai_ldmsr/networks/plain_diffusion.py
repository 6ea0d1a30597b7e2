"""Plain latent diffusion, as the poster has it: from pure noise to the slice in many steps of DDIM or DDPM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.inferers import LatentDiffusionInferer
from monai.networks.schedulers import DDPMScheduler, Scheduler
from torch import Tensor, nn

from monai_ldmsr.degradation import Factor
from monai_ldmsr.errors import SettingsError
from monai_ldmsr.networks.conditional_unet import ConditionalUNet
from monai_ldmsr.networks.generator_module import GeneratorModule, upsample_bicubic
from monai_ldmsr.networks.latent_codec import LatentCodec
from monai_ldmsr.number_settings import whole_number

__all__ = ["PlainDiffusion", "PlainGenerator"]


class PlainGenerator(nn.Module):
    """Codec and denoiser of a diffusion; a bundle's weights.

    The U-Net is preconditioned (Karras et al. 2022, arXiv 2206.00364, section 5), so that it can begin with weights
    that a flow was trained with. Of a state ``x = a z + s n`` it sees the difference from the low-resolution image's
    latent ``c`` in units of what low resolution lacks, ``start_noise (x - a c) / (a r start_noise + s)``, where ``r``
    is the codec's ``residual_std``. That is the state of a flow at time ``s / (a r start_noise + s)``, and the U-Net
    predicts that flow's velocity. Where no noise is left, the latent that follows is the state, whatever it predicts.

    Args:
        codec: latent codec with its statistics; it is not trained on.
        denoiser: U-Net that sees the noisy latent of the slice beside the latent of the low-resolution image.
        start_noise: standard deviation of the flow's start, in units of the residual's.
    """

    def __init__(self, codec: LatentCodec, denoiser: ConditionalUNet, start_noise: float = 0.2) -> None:
        super().__init__()
        self.codec = codec.requires_grad_(False)
        self.denoiser = denoiser
        self.start_noise = start_noise

    @property
    def unit(self) -> int:
        """Sides of slices must be multiples of this."""
        return self.codec.block * self.denoiser.reduction

    def predict(
        self, scheduler: Scheduler, label: Tensor, image: Tensor, degradation: Tensor, timesteps: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What is predicted of latents with noise, and what the scheduler says it should be; for training.

        Args:
            scheduler: MONAI's, which adds the noise; its ``prediction_type`` says whether noise, latents or velocity
                (Salimans and Ho 2022, arXiv 2202.00512, appendix D) are to be predicted.
            label: (B, 1, H, W) original in model range.
            image: (B, 1, H, W) low-resolution slices on the target grid.
            degradation: (B, CONDITIONS) of ``describe_degradation``.
            timesteps: (B,) whole numbers below the scheduler's.
        """
        with torch.no_grad():
            latent, condition = self.codec.encode(label), self.codec.encode(image)
            noise = torch.randn_like(latent)
            state = scheduler.add_noise(latent, noise, timesteps)
            amount, spread = _amounts(scheduler, timesteps, state)
            goal = _in_terms_of(scheduler.prediction_type, latent, state, amount, spread)
        given = torch.cat([state, condition], dim=1)
        return self._denoise(scheduler, degradation)(given, timesteps), goal

    def sample(self, inferer: LatentDiffusionInferer, image: Tensor, degradation: Tensor, noise: Tensor) -> Tensor:
        """Slices (B, 1, H, W) from noise (B, Z, H/block, W/block); other arguments as for :meth:`predict`."""
        condition = self.codec.encode(image)
        denoise = self._denoise(inferer.scheduler, degradation)
        found: Tensor = inferer.sample(noise, self.codec, denoise, conditioning=condition, mode="concat", verbose=False)
        return found

    def _denoise(self, scheduler: Scheduler, degradation: Tensor) -> Any:
        """What MONAI takes for a diffusion model: from state and condition, and steps, to what the scheduler asks."""

        def denoise(x: Tensor, timesteps: Tensor, context: None = None) -> Tensor:
            state, condition = x.chunk(2, dim=1)
            amount, spread = _amounts(scheduler, timesteps, state)
            lacking = self.codec.residual_std[:, None, None]
            whole = amount * self.start_noise * lacking + spread
            seen, time = self.start_noise * (state - amount * condition) / whole, spread / whole
            velocity = self.denoiser(seen, condition, 1000 * time.mean(dim=(1, 2, 3)), degradation)
            latent = condition + lacking * (seen + time * velocity)
            return _in_terms_of(scheduler.prediction_type, latent, state, amount, spread)

        return denoise


def _amounts(scheduler: Scheduler, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """How much of latent and of noise is in states at these steps, each (B, 1, 1, 1)."""
    kept = scheduler.alphas_cumprod.to(like)[timesteps.to(like.device).long()].view(-1, 1, 1, 1)
    return kept.sqrt(), (1 - kept).sqrt()


def _in_terms_of(form: str, latent: Tensor, state: Tensor, amount: Tensor, spread: Tensor) -> Tensor:
    """A latent as a scheduler of that ``prediction_type`` asks for it, beside the state that it was found in."""
    match form:
        case "sample":
            return latent
        case "epsilon":
            return (state - amount * latent) / spread
        case _:
            return (amount * state - latent) / spread


class PlainDiffusion(GeneratorModule[PlainGenerator]):
    """A conditional latent diffusion model as it is usually run; a ``SliceNetwork``.

    The slice's latent is drawn from pure noise in many steps of MONAI's scheduler (DDIM, Song et al. 2020, arXiv
    2010.02502; DDPM, Ho et al. 2020, arXiv 2006.11239), by MONAI's ``LatentDiffusionInferer``, with the low-resolution
    image's latent concatenated to the state (Rombach et al. 2022, arXiv 2112.10752), and decoded by the codec alone:
    without a mean to begin at, a critic, decoders on whole pixels, or an expected error.

    Args:
        generator: the networks.
        scheduler: MONAI's, as in training; with betas of all its steps.
        num_inference_steps: evaluations of the denoiser for each slice; ``DDPMScheduler`` takes as many as in training.
        factor: how many times finer slices become, 1 to 6, whole or not; a pair where rows and columns differ.
        operator: how the slices are assumed to have been degraded, one of ``operators.OPERATORS``.
        noise: standard deviation of the noise in the slices, in grey levels of 255, whatever was measured; None takes
            what a call says, and where it says nothing, estimates it slice by slice.
        seed: seed of the noise that samples are made of.
        margin: pixels of padding on each side at least, on the target grid.
        correlation_mm: slices that are twice as far apart begin at independent noise; ``inf``: all at the same.

    Raises:
        SettingsError: when an argument is outside its range, or DDPM is to skip steps.
    """

    def __init__(
        self,
        generator: PlainGenerator,
        scheduler: Scheduler,
        num_inference_steps: int = 50,
        factor: Factor = 2,
        operator: str = "area",
        noise: float | None = None,
        seed: int = 0,
        margin: int = 16,
        correlation_mm: float = 2.0,
    ) -> None:
        super().__init__(generator, factor, operator, noise, seed, margin, correlation_mm)
        steps, most = whole_number("num_inference_steps", num_inference_steps, 1), scheduler.num_train_timesteps
        if steps > most or (isinstance(scheduler, DDPMScheduler) and steps != most):
            few = "DDPM takes all steps of its training; DDIM may take fewer." if steps < most else "Take no more."
            raise SettingsError(f"num_inference_steps is {steps}, but the scheduler was made for {most}. {few}")
        scheduler.set_timesteps(steps)
        # MONAI spreads the steps from end to end, but its DDIM goes on by a whole part of the schedule, which is less:
        # noise is left. Steps of that length from the noisy end are right (Lin et al. 2024, arXiv 2305.08891, table 2).
        scheduler.timesteps = torch.arange(most - 1, -1, -(most // steps))[:steps]
        self.evaluations = steps
        # MONAI's schedulers are Modules without parameters; kept out of this one's.
        self._inferers = [LatentDiffusionInferer(scheduler)]
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.no_grad()
    def forward(
        self,
        slices: Tensor,
        modality: str | None = None,
        noise: float | None = None,
        places_mm: Sequence[float] | None = None,
    ) -> Tensor:
        """Super-resolve slices (B, 1, h, w) to (B, 1, f h, f w), see ``SliceNetwork``.

        Args:
            slices: as there.
            modality: likewise; the network does not see it.
            noise: likewise.
            places_mm: how far each slice is from the first one of its volume; None for slices of volumes of their own.
        """
        self.check(slices, noise, draws=True)
        degradation = self.degradation(slices, noise, self.factors.in_plane, self._operator_place)
        padded, inside = self.padded(upsample_bicubic(slices, self.factors.in_plane))
        places = list(places_mm or [0.0] * len(padded))
        fields, _ = self.fields_of_noise().draw_padded(padded.shape[-2:], places)
        found = []
        for n, place in enumerate(places):
            # DDPM draws in each step, from torch's own numbers: the same for a slice whatever lies beside it.
            with torch.random.fork_rng(devices=_cuda_of(padded)):
                torch.manual_seed((self.seed * 1_000_003 + round(1000 * place)) % 2**63)
                one = slice(n, n + 1)
                found.append(
                    self.generator.sample(self._inferers[0], padded[one], degradation[one], fields[one].to(padded))
                )
        return torch.cat(found)[inside]

    def describe(self, modality: str | None = None, noise: float | None = None) -> dict[str, Any]:
        """Settings of a call, its seed and evaluations, see ``SliceNetwork``."""
        known = self.known_noise(noise)
        return {
            "sampler": type(self._inferers[0].scheduler).__name__,
            "num_inference_steps": self.evaluations,
            "correlation_mm": self.correlation_mm,
            "noise": None if known is None else round(known, 3),
            "operator": self.operator,
            "seed": self.seed,
            "evaluations_per_slice": self.evaluations,
        }


def _cuda_of(tensor: Tensor) -> list[torch.device]:
    return [tensor.device] if tensor.is_cuda else []
