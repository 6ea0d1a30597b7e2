"""Training against a critic: what generators compute of a batch, and one iteration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from ignite.engine import Engine
from torch import Tensor, nn
from torch.optim import Optimizer

from monai_ldmsr.degradation import AreaOperator
from monai_ldmsr.losses import GeneratorLoss, PartialPrediction
from monai_ldmsr.networks import LatentGenerator, SRResNetGenerator, describe_degradation
from monai_ldmsr.networks.plane_mean import PlaneMean
from monai_ldmsr.operators import operator_place
from monai_ldmsr.samplers import AnchoredFlow, LatentSampler
from monai_ldmsr.training.intensities import PatchIntensities
from monai_ldmsr.training.recording import RecordedSteps, make_plain, make_recordable

__all__ = ["AdversarialStep", "BaselineObjective", "PlaneObjective", "StudentObjective"]

#: Longest gradient of the generator.
_MAX_NORM = 1.0

Batch = dict[str, Tensor]
Terms = dict[str, Tensor]


class StudentObjective(nn.Module):
    """Mean, expected error and sample of a batch, the images projected onto the source as after the network in use.

    Args:
        generator: the networks; the codec stays as it is.
        sampler: sampler with which the networks are to be used; None takes ``AnchoredFlow()``.
    """

    def __init__(self, generator: LatentGenerator, sampler: LatentSampler | None = None) -> None:
        super().__init__()
        self.generator = generator
        self.sampler = AnchoredFlow() if sampler is None else sampler

    def forward(self, batch: Batch) -> PartialPrediction:
        """Predict for a batch of :class:`~monai_ldmsr.training.RandomPatches`."""
        image = batch["image"]
        block = self.generator.codec.block
        latent = image.new_empty(len(image), block**2, *(n // block for n in image.shape[-2:])).normal_()
        found = self.generator(image, _degradation(batch), self.sampler, latent, torch.randn_like(image))
        assert found.mean is not None
        assert found.sample is not None
        both = torch.cat([found.mean, found.sample], dim=1)
        return PartialPrediction(projected(found.mean, batch), found.log_scale, projected(found.sample, batch), both)


class PlaneObjective(nn.Module):
    """Mean and expected error of planes across thick slices; what slices have as well stays as it is.

    They are not made to agree with the source: in use that happens after two sets of planes have been averaged.

    Args:
        generator: the trained networks, which are not trained on.
        planes: what planes have of their own.
    """

    def __init__(self, generator: LatentGenerator, planes: PlaneMean) -> None:
        super().__init__()
        self.generator = generator.requires_grad_(False)
        self.planes = planes

    def forward(self, batch: Batch) -> PartialPrediction:
        """Predict for a batch of :class:`~monai_ldmsr.training.RandomPatches`."""
        found = self.generator(batch["image"], _degradation(batch), planes=(self.planes, batch["width"]))
        return PartialPrediction(found.mean, found.log_scale)


class BaselineObjective(nn.Module):
    """SRResNet's or SRGAN's generator as the iteration calls it.

    Args:
        generator: the network to train, for whole factors alike in rows and columns.
        as_sample: against a critic (SRGAN); else as a mean (SRResNet).
    """

    def __init__(self, generator: SRResNetGenerator, as_sample: bool = False) -> None:
        super().__init__()
        self.generator = generator
        self.as_sample = as_sample

    def forward(self, batch: Batch) -> PartialPrediction:
        """Predict for a batch of :class:`~monai_ldmsr.training.RandomPatches`."""
        image = projected(self.generator.refine(batch["image"], batch["factor"][:, 0]), batch)
        return PartialPrediction(sample=image) if self.as_sample else PartialPrediction(mean=image)


@dataclass(eq=False, repr=False)
class AdversarialStep:
    """One iteration of a generator, and of a critic where there is one; ``iteration_update`` of MONAI's ``Trainer``.

    The critic's loss is that of least squares (Mao et al. 2017, arXiv 1611.04076). On CUDA an iteration is thousands of
    small kernels, and starting them takes longer than running them: so iterations are recorded once for each shape of
    batches and then replayed (CUDA graphs).

    Args:
        network: objective: batch to prediction.
        loss: loss of the prediction.
        optimizer: optimizer of the generator.
        critic: ``ConditionalCritic``; None trains without.
        critic_optimizer: optimizer of the critic.
        adversarial_weight: weight of the critic's judgement in the generator's loss.
        critic_warmup: iterations over which that weight rises to its full value, while the critic learns to judge.
        device: where all happens.
        bfloat16: convolutions in bfloat16, losses and weights in float32; None does so on CUDA.
        recorded: replay recorded iterations; None does so on CUDA where there is one process.
    """

    network: nn.Module
    loss: GeneratorLoss
    optimizer: Optimizer
    critic: nn.Module | None = None
    critic_optimizer: Optimizer | None = None
    adversarial_weight: float = 0.03
    critic_warmup: int = 300
    device: str | torch.device = "cpu"
    bfloat16: bool | None = None
    recorded: bool | None = None

    def __post_init__(self) -> None:
        self._device = torch.device(self.device)
        on_cuda = self._device.type == "cuda"
        self._in_bfloat16 = on_cuda if self.bfloat16 is None else self.bfloat16
        alone = not isinstance(self.network, nn.parallel.DistributedDataParallel)
        is_recorded = on_cuda and alone if self.recorded is None else self.recorded
        self._weight = torch.zeros((), device=self._device)
        self._recorded = RecordedSteps(self._iterate) if is_recorded else None
        for chosen in (self.optimizer, self.critic_optimizer):
            if is_recorded:
                make_recordable(chosen, self._device)
            else:
                make_plain(chosen)

    def __call__(self, engine: Engine, batch: Batch) -> Terms:
        """Train on one batch; returns each term of the losses."""
        batch = {key: value.to(self._device, non_blocking=True) for key, value in batch.items()}
        self._weight.fill_(self.adversarial_weight * min(1.0, engine.state.iteration / max(1, self.critic_warmup)))
        return self._iterate(batch) if self._recorded is None else self._recorded(batch)

    def _iterate(self, batch: Batch) -> Terms:
        degradation, image, label = _degradation(batch), batch["image"], batch["label"]
        with self._autocast():
            prediction = self.network(batch)
        terms: Terms = self.loss(prediction, label, _factors(batch))
        sample = prediction.sample
        if self.critic is not None and sample is not None:
            self.critic.requires_grad_(False)
            terms["adversarial_loss"] = self._weight * self._distance(sample, image, degradation, 1.0)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(torch.stack(list(terms.values())).sum())
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, _MAX_NORM)
        self.optimizer.step()
        if self.critic is not None and self.critic_optimizer is not None and sample is not None:
            self.critic.requires_grad_(True)
            both = [self._distance(x, image, degradation, goal) for x, goal in ((label, 1.0), (sample.detach(), 0.0))]
            terms["critic_loss"] = 0.5 * (both[0] + both[1])
            self.critic_optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(terms["critic_loss"])
            self.critic_optimizer.step()
        return {key: value.detach() for key, value in terms.items()}

    def _distance(self, judged: Tensor, image: Tensor, degradation: Tensor, goal: float) -> Tensor:
        assert self.critic is not None
        with self._autocast():
            logits: Tensor = self.critic(judged, image, degradation)
        return (logits.float() - goal).square().mean()

    def _autocast(self) -> Any:
        # Weights that were cast must not outlive a recording.
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._in_bfloat16, cache_enabled=False)


def projected(image: Tensor, batch: Batch) -> Tensor:
    """Agree with the source as ``consistency.project_onto_source`` makes a result agree, in the source's unit.

    Only patches of the area operator: the point spread function of the others is drawn for each batch.

    Args:
        image: (B, 1, H, W) in model range.
        batch: what ``RandomPatches`` gives.
    """
    area = AreaOperator(_factors(batch))
    intensities = PatchIntensities(batch["knots"])
    values = intensities.inverse(image.float())
    missing = area.smooth_inverse(intensities.inverse(batch["low"]) - area(values))
    is_area = (batch["operator"] == operator_place("area"))[:, None, None, None]
    return torch.where(is_area, intensities.forward(values + missing), image.float())


def _factors(batch: Batch) -> tuple[float, float]:
    """Factors of a batch, from the sizes of its images."""
    rows, columns = (
        fine / coarse for fine, coarse in zip(batch["image"].shape[-2:], batch["low"].shape[-2:], strict=True)
    )
    return rows, columns


def _degradation(batch: Batch) -> Tensor:
    return describe_degradation(batch["factor"], batch["operator"], batch["noise"])
