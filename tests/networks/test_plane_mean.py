"""What planes across thick slices have of their own: where it begins, what it is told, which weights it belongs to."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from generator_fixtures import make_generator, make_resolver
from torch import Tensor, nn

from monai_ldmsr.errors import WeightsError
from monai_ldmsr.networks import CONDITIONS, LatentGenerator, PlaneMean, SuperResolver, load_plane_mean, save_weights
from monai_ldmsr.networks.plane_mean import PROFILE_WIDTHS

SHA256, OTHER = (hashlib.sha256(name).hexdigest() for name in (b"these", b"others"))

PLANES, NOISE = torch.randn(2, 1, 10, 21, generator=torch.Generator().manual_seed(1)), 2.0


def started(generator: LatentGenerator, more_blocks: int = 1) -> PlaneMean:
    decoder = generator.mean_decoder
    planes = PlaneMean(generator.denoiser, decoder.head.out_channels, len(decoder.body) + more_blocks)
    planes.start_from(generator.denoiser, decoder, SHA256)
    planes.sha256 = OTHER  # as if it had been loaded
    return planes


def refined(network: SuperResolver, factors: tuple[float, float] = (1.0, 4.0), width: float = 1.0) -> Tensor:
    return network.refine(PLANES, factors, noise=NOISE, places_mm=[0.0, 1.0], width=width)[0]


@pytest.mark.parametrize("width", [0.5, 1.0, 1.3])
def test_it_begins_as_the_mean_of_slices(width: float) -> None:
    """Whatever the profile: the further blocks and the weight of the width begin at 0."""
    network = make_resolver(detail=0.0)
    before = refined(network)
    network.planes = started(network.generator, more_blocks=2)
    assert torch.allclose(refined(network, width=width), before, atol=1e-5)


@pytest.mark.parametrize("part", ["unet/conv_in/conv/weight", "unet/out/2/conv/weight"])
def test_planes_have_weights_of_their_own_and_slices_theirs(part: str) -> None:
    plain, network = make_resolver(detail=0.0), make_resolver(detail=0.0)
    network.load_state_dict(plain.state_dict())
    network.planes = started(network.generator)
    nn.init.normal_(network.planes.own[part], std=0.3)
    assert not torch.allclose(refined(network), refined(plain), atol=1e-4)
    assert torch.equal(refined(network, (4.0, 1.0)), refined(plain, (4.0, 1.0))), "its stacks are along columns"
    assert torch.equal(plain(PLANES, noise=NOISE), network(PLANES, noise=NOISE))
    assert plain.state_dict().keys() == network.state_dict().keys(), "model.pt holds the generator's"


def test_sample_of_planes_starts_at_their_own_mean() -> None:
    """Half of the way between mean and sample lies between those of planes."""
    network = make_resolver(detail=1.0)
    network.planes = started(network.generator)
    nn.init.normal_(network.planes.decoder.last.weight, std=0.3)
    mean, half, full = (
        network.refine(PLANES, (1.0, 3.0), noise=NOISE, places_mm=[0.0, 1.0], strength=strength)[0]
        for strength in (0.0, 0.5, 1.0)
    )
    assert torch.allclose(half, (mean + full) / 2, atol=1e-4)


def test_each_plane_is_decoded_by_its_own_width() -> None:
    planes = started(make_generator())
    nn.init.normal_(planes.decoder.degradation.weight[:, -1])
    given = (PLANES[:, :, :, :20], PLANES[:, :, :, :20], torch.rand(2, CONDITIONS))
    widths = torch.tensor([0.6, 1.2])
    together = planes.decode(*given, widths)
    for n, width in enumerate(widths):
        alone = planes.decode(*(one[n : n + 1] for one in given), width[None])
        assert torch.allclose(alone, together[n : n + 1], atol=1e-4)
    assert not torch.allclose(together, planes.decode(*given, torch.ones(2)), atol=1e-3)
    for beyond, bound in zip((0.1, 3.0), PROFILE_WIDTHS, strict=True):
        found = [planes.decode(*given, torch.full((2,), width)) for width in (beyond, bound)]
        assert torch.equal(*found), "what lies beyond the training counts as its outermost"


def test_it_is_loaded_beside_its_weights_alone(tmp_path: Path) -> None:
    path, generator = tmp_path / "planes.pt", make_generator()
    assert load_plane_mean(started(generator), path, SHA256) == "", "a bundle may have none"
    saved = started(generator)
    sha256 = save_weights(saved, path, half=True)
    loaded = started(make_generator(lively=False))
    assert load_plane_mean(loaded, path, SHA256, sha256) == loaded.sha256 == sha256
    for one, other in zip(loaded.parameters(), saved.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-3)
    assert load_plane_mean(started(generator), path, "") == "", "no weights were loaded"
    with pytest.raises(WeightsError, match=f"planes.pt was trained with weights {SHA256[:12]}, .* {OTHER[:12]}"):
        load_plane_mean(started(generator), path, OTHER)
    with pytest.raises(WeightsError, match="altered or is incomplete"):
        load_plane_mean(started(generator), path, SHA256, OTHER)
    with pytest.raises(WeightsError, match="does not fit this network"):
        load_plane_mean(started(generator, more_blocks=3), path, SHA256)


def test_header_names_the_weights_of_planes() -> None:
    network = make_resolver(detail=0.25, factor=1)
    assert network.describe_planes() == {"slice_detail": 0.25}
    network.planes = started(network.generator)
    assert network.describe_planes() == {"slice_detail": 0.25, "plane_weights": OTHER[:12]}


def test_what_is_not_loaded_is_not_used() -> None:
    """As where another program builds the network, and loads the weights of slices alone."""
    network = make_resolver(detail=0.0)
    before = refined(network)
    network.planes = started(network.generator)
    nn.init.normal_(network.planes.decoder.last.weight, std=0.3)
    assert not torch.allclose(refined(network), before, atol=1e-3)
    network.planes.sha256 = ""
    assert torch.equal(refined(network), before)
    assert network.describe_planes() == {"slice_detail": 0.0}
