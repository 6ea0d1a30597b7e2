"""The mean of planes across thick slices, which are finer along one axis alone."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from monai_ldmsr.errors import WeightsError
from monai_ldmsr.networks.conditional_unet import CONDITIONS, ConditionalUNet
from monai_ldmsr.networks.pixel_decoder import PixelDecoder
from monai_ldmsr.networks.weights import load_weights

__all__ = ["PROFILE_WIDTHS", "PlaneMean", "load_plane_mean"]

#: Full widths of slice profiles in distances of slices that it is trained for: half of it gap, to slices that overlap.
PROFILE_WIDTHS = (0.5, 1.3)

#: Levels of the denoiser, from the finest, that planes have weights of their own for.
_OWN_LEVELS = 2


class PlaneMean(nn.Module):
    """The denoiser's finest levels and the decoder of the mean, trained for planes across slices.

    The other levels are those of the denoiser of slices, so that a bundle grows by a few MB alone. Columns of planes
    are along the stack: each row crosses all slices. The decoder knows how wide the slice profile is.

    Args:
        denoiser: denoiser of slices; what planes have of their own begins as its.
        channels: channels of the decoder, see ``PixelDecoder``.
        num_blocks: likewise.

    Attributes:
        beside: (32,) sha256 of the generator's weights that it was trained with.
        sha256: hash of the file that it was loaded from; empty before, while it is not used.
    """

    beside: Tensor

    def __init__(self, denoiser: ConditionalUNet, channels: int = 48, num_blocks: int = 6) -> None:
        super().__init__()
        self.decoder = PixelDecoder(channels, num_blocks, out_channels=2, conditions=CONDITIONS + 1)
        own = {name: value for name, value in denoiser.named_parameters() if name.startswith(_own_parts(denoiser))}
        self.own = nn.ParameterDict({_key(name): value.detach().clone() for name, value in own.items()})
        self.register_buffer("beside", torch.zeros(32, dtype=torch.uint8))
        self.sha256 = ""

    def velocity(
        self, denoiser: ConditionalUNet, state: Tensor, condition: Tensor, timesteps: Tensor, degradation: Tensor
    ) -> Tensor:
        """What the denoiser of slices predicts with the weights of planes in place of its own; arguments as there."""
        weights = {key.replace("/", "."): value for key, value in self.own.items()}
        predicted: Tensor = functional_call(denoiser, weights, (state, condition, timesteps, degradation))
        return predicted

    def decode(self, decoded: Tensor, image: Tensor, degradation: Tensor, width: Tensor) -> Tensor:
        """Decode the mean.

        Args:
            decoded: see ``PixelDecoder``.
            image: likewise.
            degradation: (B, CONDITIONS) of ``describe_degradation``.
            width: (B,) full width of the slice profile (Gaussian: at half height) in distances of slices.

        Returns:
            (B, 2, H, W): the mean, and the logarithm of its expected absolute error.
        """
        known = width.clamp(*PROFILE_WIDTHS)[:, None] - 1.0
        both: Tensor = self.decoder(decoded, image, torch.cat([degradation, known], dim=1))
        return both

    def start_from(self, denoiser: ConditionalUNet, decoder: PixelDecoder, weights_sha256: str) -> None:
        """Do at first what slices' own networks do.

        Args:
            denoiser: the trained denoiser.
            decoder: the trained decoder of the mean; of as many channels, and fewer blocks.
            weights_sha256: hash of the weights that both belong to.
        """
        self.beside.copy_(torch.tensor(list(bytes.fromhex(weights_sha256)), dtype=torch.uint8))
        with torch.no_grad():
            for name, value in denoiser.named_parameters():
                if _key(name) in self.own:
                    self.own[_key(name)].copy_(value)
            for name, value in decoder.state_dict().items():
                own = self.decoder.get_parameter(name)
                own.copy_(functional.pad(value, (0, own.shape[-1] - value.shape[-1])))
            for block in list(self.decoder.body)[len(decoder.body) :]:
                for value in list(block.parameters())[-2:]:  # of its last layer
                    nn.init.zeros_(value)


def _own_parts(denoiser: ConditionalUNet) -> tuple[str, ...]:
    """Beginnings of the names of parameters; those of resampling, which libraries name in their own way, are shared."""
    levels = len(denoiser.unet.block_out_channels)
    down = [f"down_blocks.{n}.resnets." for n in range(_OWN_LEVELS)]
    up = [f"up_blocks.{levels - 1 - n}.resnets." for n in range(_OWN_LEVELS)]
    return tuple(f"unet.{part}" for part in ("conv_in.", "class_embedding.", *down, *up, "out."))


def _key(name: str) -> str:
    # Keys of a ParameterDict have no dots.
    return name.replace(".", "/")


def load_plane_mean(planes: PlaneMean, path: str | Path, weights_sha256: str, sha256: str | None = None) -> str:
    """Load what belongs to a bundle's weights.

    Args:
        planes: changed in place.
        path: the bundle's ``planes.pt``.
        weights_sha256: hash of the weights that it must have been trained with; empty where none were loaded.
        sha256: the expected hash of the file; not checked when None.

    Returns:
        The file's sha256; empty where the bundle has none for planes.

    Raises:
        WeightsError: it is altered or damaged, or was trained with other weights.
    """
    if not weights_sha256 or not Path(path).is_file():
        return ""
    found = load_weights(planes, path, sha256)
    beside = bytes(planes.beside.tolist()).hex()
    if beside != weights_sha256:
        raise WeightsError(
            f"The bundle's {Path(path).name} was trained with weights {beside[:12]}, but the bundle has "
            f"{weights_sha256[:12]}. Train it again, or remove the file: then new slices are made as slices are."
        )
    planes.sha256 = found
    return found
