"""A volume in batches: devices whose memory is short, number formats, and what is not on the CPU."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from generator_fixtures import make_resolver
from torch import Tensor, nn

from monai_ldmsr.errors import SettingsError
from monai_ldmsr.geometry import Factors
from monai_ldmsr.inferers import VolumeInferer

#: As a GPU, a CPU's allocator and NumPy say it.
_OUT_OF_MEMORY = (
    torch.OutOfMemoryError("out of memory"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    MemoryError("Unable to allocate"),
)


class Small(nn.Module):
    """Doubles slices by repeating, on a device that has memory for so many at once."""

    factors = Factors(2, 2)

    def __init__(self, most: int, error: Exception = _OUT_OF_MEMORY[0]) -> None:
        super().__init__()
        self.most, self.error, self.batches = most, error, list[int]()

    def forward(self, slices: Tensor, modality: str | None = None, noise: float | None = None) -> Tensor:
        self.batches.append(len(slices))
        if len(slices) > self.most:
            raise self.error
        return slices.repeat_interleave(2, -1).repeat_interleave(2, -2)

    def describe(self, modality: str | None = None, noise: float | None = None) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize("error", _OUT_OF_MEMORY)
def test_a_batch_that_memory_cannot_hold_is_halved_and_the_rest_goes_on(error: Exception) -> None:
    volume, network = torch.rand(1, 1, 5, 4, 30), Small(3, error)
    result = VolumeInferer(batch_size=16)(volume, network)
    torch.testing.assert_close(result, volume.repeat_interleave(2, 2).repeat_interleave(2, 3), atol=0, rtol=0)
    assert network.batches[:4] == [1, 16, 8, 4]
    assert max(network.batches[4:]) == 2, "it is tried again with what was too much"


def test_a_slice_that_memory_cannot_hold_is_an_error() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        VolumeInferer()(torch.rand(1, 1, 5, 4, 3), Small(0, _OUT_OF_MEMORY[1]))
    with pytest.raises(RuntimeError, match="another"):
        VolumeInferer()(torch.rand(1, 1, 5, 4, 3), Small(0, RuntimeError("another")))


def test_bfloat16_rounds_what_networks_make_and_is_said() -> None:
    resolver, volume = make_resolver(detail=0.5), torch.rand(1, 1, 12, 20, 3)
    exact, rounded = VolumeInferer(), VolumeInferer(precision="bfloat16")
    results = [one.estimate(volume, resolver, "MR", 2.0) for one in (exact, rounded)]
    for whole, less in zip(*results, strict=True):
        assert less.dtype == torch.float32
        assert not torch.equal(whole, less)
        torch.testing.assert_close(whole, less, atol=0.1, rtol=0.1)
    assert rounded.describe() == {"batch_size": 4, "precision": "bfloat16"}
    assert exact.describe() == {"batch_size": 4}
    assert rounded.with_at_most(2).describe() == {"batch_size": 2, "precision": "bfloat16"}
    with pytest.raises(SettingsError, match="precision is 'half'; choose one of float32, bfloat16"):
        VolumeInferer(precision="half")


def test_a_gpu_takes_as_many_slices_as_its_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what one took; what other tensors hold there is not free, but what torch keeps in reserve is."""
    from monai_ldmsr.inferers import _DeviceMemory

    gigabytes = {"memory_allocated": 2, "max_memory_allocated": 3, "memory_reserved": 5}
    for name, number in gigabytes.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, number=number: number * 2**30)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (17 * 2**30, 80 * 2**30))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    memory = _DeviceMemory(torch.device("cuda"))
    assert memory.batch(None, 2**21, 2**20) == 14  # 70 % of 17 + 5 - 2
    assert memory.batch(3, 2**22, 2**20) == 3
    assert VolumeInferer(device="cuda").describe() == {"batch_size": "by memory"}
    cpu = _DeviceMemory(torch.device("cpu"))
    assert [cpu.batch(None, 2**21, pixels) for pixels in (2**10, 2**20, 2**23)] == [4, 2, 1]


@pytest.mark.slow
def test_the_check_of_a_gpu_runs_on_a_cpu(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """By the same calls; float32 on the same device is the same in every bit."""
    from benchmarks import gpu_check

    given = ["gpu_check", "--device", "cpu", "--sides", "8", "--slices", "1", "--repeats", "1"]
    monkeypatch.setattr("sys.argv", given)
    gpu_check.main()
    found = json.loads(capsys.readouterr().out)
    assert found["parity"]["detail 0.5, float32"] == {"max_hu": 0.0, "mean_hu": 0.0, "share_above_one": 0.0}
    assert found["parity"]["detail 0, bfloat16"]["mean_hu"] > 0
    assert [row["result_pixels"] for row in found["speed"]] == [32] * 4
    assert len(found["profile"]) == 10
