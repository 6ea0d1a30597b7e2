"""What ``ldmsr import-generative`` reads: configs and checkpoints, whoever wrote them."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from generative_networks import CASES, needs_generative, one_thread, save_checkpoint, trained
from torch import Tensor

from monai_ldmsr import import_generative
from monai_ldmsr.errors import SettingsError, WeightsError
from monai_ldmsr.networks import read_generative_network
from monai_ldmsr.networks.generative_names import monai_keys

__all__ = ["one_thread"]

pytestmark = [needs_generative, pytest.mark.usefixtures("one_thread")]

CODEC, UNET = CASES["codec"], CASES["unet"]


def test_a_network_in_a_bundle_s_config(tmp_path: Path) -> None:
    config = {
        "dims": 2,
        "widths": {"codec": [[8, "@wide"]]},
        "wide": 16,
        "autoencoder_def": {**CODEC, "spatial_dims": "@dims", "num_channels": "@widths#codec::0"},
        "train": {"nets": [{"unet": UNET}]},
        "other": {"_target_": "torch.nn.Linear", "in_features": "$1 + 1"},
    }
    for name, text in (("c.yaml", yaml.safe_dump(config)), ("c.json", json.dumps(config))):
        (tmp_path / name).write_text(text)
        assert read_generative_network(tmp_path / name, "autoencoder_def") == CODEC
        assert read_generative_network(tmp_path / name, "train#nets#0#unet") == UNET
        with pytest.raises(SettingsError, match=r"2 networks .*autoencoder_def, train#nets#0#unet"):
            read_generative_network(tmp_path / name)
        with pytest.raises(SettingsError, match="no network 'codec'"):
            read_generative_network(tmp_path / name, "codec")
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(CODEC))
    assert read_generative_network(tmp_path / "one.yaml") == CODEC


@pytest.mark.parametrize("value", ["$__import__('os').mkdir('ran')", "@a", "@nothing", "@network_def"])
def test_a_config_runs_nothing(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = {"a": "@b", "b": "@a", "network_def": {**CODEC, "latent_channels": value}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(SettingsError, match=r"latent_channels is .*Write the value itself"):
        read_generative_network(tmp_path / "c.yaml")
    (tmp_path / "d.yaml").write_text("a: !!python/object/apply:os.mkdir [ran]\n")
    (tmp_path / "e.json").write_text("[" * 100_000)
    for name in ("d.yaml", "e.json", "missing.yaml"):
        with pytest.raises(SettingsError, match="cannot be read"):
            read_generative_network(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_references_within_an_argument_are_followed(tmp_path: Path) -> None:
    config = {"slope": 0.3, "network_def": {**CASES["vqvae"], "act": ["LEAKYRELU", {"negative_slope": "@slope"}]}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    assert read_generative_network(tmp_path / "c.yaml")["act"] == ["LEAKYRELU", {"negative_slope": 0.3}]
    (tmp_path / "c.yaml").write_text("_target_: generative.networks.nets.VQVAE\nnum_channels: &a [*a]\n")
    with pytest.raises(SettingsError, match="num_channels is"):
        read_generative_network(tmp_path / "c.yaml")


@pytest.mark.parametrize(
    "hidden", ["$__import__('os').mkdir('ran')", {"_target_": "os.mkdir", "path": "ran"}, "%other.yaml::a", "@a"]
)
def test_nothing_is_written_that_monai_would_run(hidden: object, tmp_path: Path) -> None:
    """Both networks take any value for ``inplace``; MONAI's parser would act on it when it reads the new config."""
    network = {**CASES["vqvae"], "act": ["RELU", {"inplace": hidden}]}
    source = save_checkpoint(CASES["vqvae"], tmp_path / "old.pt")
    with pytest.raises(SettingsError, match="Write the value itself"):
        import_generative(source, tmp_path / "new.pt", network)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(network))
    with pytest.raises(SettingsError, match="Write the value itself"):
        import_generative(source, tmp_path / "new.pt", read_generative_network(tmp_path / "c.yaml"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.yaml", "old.pt"]


# Checkpoints


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (dict, "its tensors"),
        (lambda state: {f"module.{key}": value for key, value in state.items()}, "module."),
        (lambda state: {"epoch": 3, "state_dict": {f"module.unet.{k}": v for k, v in state.items()}},
         "state_dict/module.unet."),
        (lambda state: {"model": state, "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}}}, "model"),
        (lambda state: {"nets": {"codec": state}, "bare": torch.zeros(2)}, "nets/codec"),
        (lambda state: {"state_dict": {**{f"gen.{k}": v for k, v in state.items()}, "critic.w": torch.ones(1)}},
         "state_dict/gen."),
        (lambda state: {key: value.half() for key, value in state.items()}, "its tensors"),
    ],
)  # fmt: skip
def test_where_checkpoints_keep_tensors(
    content: Callable[[dict[str, Tensor]], object], place: str, tmp_path: Path
) -> None:
    source = save_checkpoint(CODEC, tmp_path / "old.pt", content)
    imported = import_generative(source, tmp_path / "new.pt", CODEC)
    assert imported.place == place
    assert imported.n_unused == sum(".proj_attn." in key for key in trained(CODEC).state_dict()) > 0
    written = torch.load(tmp_path / "new.pt", weights_only=True)
    original = monai_keys(trained(CODEC).state_dict())
    assert written.keys() == original.keys()
    assert len(written) == imported.n_tensors
    assert all(torch.equal(value, original[key].to(value.dtype)) for key, value in written.items())


def test_one_of_several_is_asked_for(tmp_path: Path) -> None:
    """Averaged weights stand beside the last ones in many checkpoints; which is meant, only the user knows."""
    last, averaged = (trained(CODEC, seed).state_dict() for seed in (0, 1))
    torch.save({"model": last, "ema": {f"module.{key}": value for key, value in averaged.items()}}, tmp_path / "old.pt")
    with pytest.raises(WeightsError, match=r"2 times: ema/module\., model\. Say by --key"):
        import_generative(tmp_path / "old.pt", tmp_path / "new.pt", CODEC)
    with pytest.raises(WeightsError, match="at 'averaged'"):
        import_generative(tmp_path / "old.pt", tmp_path / "new.pt", CODEC, key="averaged")
    import_generative(tmp_path / "old.pt", tmp_path / "new.pt", CODEC, key="ema")
    written = torch.load(tmp_path / "new.pt", weights_only=True)
    assert torch.equal(written["post_quant_conv.conv.bias"], averaged["post_quant_conv.conv.bias"])


def without(state: dict[str, Tensor], word: str) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if word not in key}


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (lambda s: without(s, "post_quant_conv"), "2 are missing, such as post_quant_conv.conv.bias"),
        (lambda s: {**s, "more": torch.zeros(1)}, "1 are left over, such as more"),
        (lambda s: {**without(s, "quant_conv_mu"), "x.y": torch.zeros(1)}, "2 are missing.*1 are left over"),
        (lambda s: {**s, "post_quant_conv.conv.bias": torch.zeros(7)}, r"bias: \(7,\) and not \(3,\)"),
        (lambda s: {**s, "post_quant_conv.conv.bias": torch.full((3,), torch.nan)}, "these weights, 'decoded' .* nan"),
        (lambda s: {**s, "quant_conv_mu.conv.bias": torch.full((3,), torch.inf)}, "these weights, 'mean' .* nan"),
        (lambda s: {**s, "post_quant_conv.conv.bias": torch.ones(3).to_sparse()}, "sparse tensors"),
        (lambda s: {**s, "post_quant_conv.conv.bias": torch.ones(3, device="meta")}, "or no values"),
        (lambda s: {"state_dict": {}}, "no named tensors"),
        (lambda s: [1, 2], "no named tensors"),
        (lambda s: torch.zeros(3), "no named tensors"),
        (lambda s: trained(CASES["critic"]).state_dict(), "are missing"),
        (monai_keys, "are missing, such as .*; .* left over"),
    ],
)  # fmt: skip
def test_checkpoints_of_something_else(
    content: Callable[[dict[str, Tensor]], object], match: str, tmp_path: Path
) -> None:
    source = save_checkpoint(CODEC, tmp_path / "old.pt", content)
    with pytest.raises(WeightsError, match=match):
        import_generative(source, tmp_path / "new.pt", CODEC)
    assert [path.name for path in tmp_path.iterdir()] == ["old.pt"]


class Program:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["program", "network", "pickle", "cut", "empty", "text", "missing"])
def test_files_that_are_hostile_or_broken(kind: str, tmp_path: Path) -> None:
    source = save_checkpoint(CODEC, tmp_path / "old.pt")
    if kind == "program":
        torch.save({"state_dict": trained(CODEC).state_dict(), "hyper": Program(tmp_path / "ran")}, source)
    elif kind == "network":
        torch.save(trained(CODEC), source)
    elif kind == "pickle":
        source.write_bytes(pickle.dumps(Program(tmp_path / "ran")))
    elif kind == "cut":
        source.write_bytes(source.read_bytes()[:-2000])
    elif kind == "missing":
        source.unlink()
    else:
        source.write_text("" if kind == "empty" else "weights")
    match = "does not exist" if kind == "missing" else "state_dict.. alone"
    with pytest.raises(WeightsError, match=match) as caught:
        import_generative(source, tmp_path / "new.pt", CODEC)
    assert str(tmp_path) not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} <= {"old.pt"}
