"""``ldmsr import-generative`` against the real package ``generative`` 0.2.3."""

from __future__ import annotations

import inspect
import json
import pickle
import re
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from copy import deepcopy
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from generative_networks import CASES, needs_generative, one_thread, save_checkpoint, trained
from hostile_pickle import Program
from monai.bundle import ConfigParser
from monai.networks import nets
from torch import Tensor, nn

from monai_ldmsr import import_generative
from monai_ldmsr.cli import main
from monai_ldmsr.errors import LdmsrError, OutputError, SettingsError, WeightsError
from monai_ldmsr.networks import generative_weights
from monai_ldmsr.networks.generative_weights import monai_arguments, monai_keys
from monai_ldmsr.storage import file_sha256

__all__ = ["one_thread"]

pytestmark = [needs_generative, pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

CODEC, UNET = CASES["codec"], CASES["unet"]


def without(named: dict[str, Any], word: str) -> dict[str, Any]:
    return {key: value for key, value in named.items() if word not in key}


def outputs(network: nn.Module, case: dict[str, Any]) -> list[Tensor]:
    """In single precision, as it will be used; on other input than the command's, of other sides."""
    torch.manual_seed(7)
    dims = case["spatial_dims"]
    image = torch.randn(3, case["in_channels"], *(16, 24, 8)[:dims])
    name = case["_target_"].rpartition(".")[2]
    with torch.no_grad():
        if name == "AutoencoderKL":
            return [*network.encode(image), network.reconstruct(image)]
        if name == "VQVAE":
            return [network.index_quantize(image).float(), network(image)[0]]
        if name == "PatchDiscriminator":
            return list(network(image))
        more = {}
        if case.get("with_conditioning"):
            more["context"] = torch.randn(3, 2, case["cross_attention_dim"])
        if case.get("num_class_embeds"):
            more["class_labels"] = torch.tensor([1, 0, 1])
        return [network(image, torch.tensor([1, 500, 999]), **more)]


def built_by_monai(config: Path, weights: Path) -> nn.Module:
    """As a user's bundle would: MONAI's own parser, strict loading."""
    parser = ConfigParser()
    parser.read_config(str(config))
    network: nn.Module = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(weights, weights_only=True))
    return network.eval()


@pytest.mark.parametrize("name", CASES)
def test_the_imported_network_computes_the_same(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    source = save_checkpoint(case, tmp_path / "old.pt")
    imported = import_generative(source, tmp_path / "new.pt", case)
    assert imported.sha256 == file_sha256(tmp_path / "new.pt")
    assert max(imported.differences.values()) <= imported.tolerance <= 1e-5
    network = built_by_monai(tmp_path / "new.yaml", tmp_path / "new.pt")
    assert type(network).__module__.startswith("monai.networks.nets")
    expected = outputs(trained(case), case)
    for mine, theirs in zip(outputs(network, case), expected, strict=True):
        assert float(theirs.std()) > 1e-3, "something to compare"
        torch.testing.assert_close(mine, theirs, rtol=0, atol=2e-5 * float(theirs.abs().max()))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.pt", "new.yaml", "old.pt"]


@pytest.mark.parametrize("name", ["codec", "codec without attention 3D", "unet 3D", "unet with context"])
def test_names_are_those_of_monai(name: str) -> None:
    """MONAI's own conversion, given options with which it is right, puts the same tensors in the same places."""
    original = trained(CASES[name])
    target = CASES[name]["_target_"].rpartition(".")[2]
    given = {key: value for key, value in CASES[name].items() if key != "_target_"}
    network = getattr(nets, target)(**monai_arguments(type(original), given))
    with redirect_stdout(StringIO()):
        network.load_old_state_dict(deepcopy(original.state_dict()))
    mine = monai_keys(original.state_dict())
    assert mine.keys() == network.state_dict().keys()
    assert all(torch.equal(value, mine[key]) for key, value in network.state_dict().items())


def test_every_argument_is_written_down(tmp_path: Path) -> None:
    """MONAI's defaults may change; generative's were what trained."""
    for name in ("codec", "unet", "vqvae", "critic"):
        imported = import_generative(
            save_checkpoint(CASES[name], tmp_path / "o.pt"), tmp_path / f"{name}.pt", CASES[name]
        )
        target = getattr(nets, imported.target.rpartition(".")[2])
        assert imported.arguments.keys() == inspect.signature(target).parameters.keys()
        written = yaml.safe_load((tmp_path / f"{name}.yaml").read_text())["network_def"]
        assert written == {"_target_": imported.target, **imported.arguments}
        assert imported.sha256 in (tmp_path / f"{name}.yaml").read_text()


# What the proof refuses


def refused(case: dict[str, Any], folder: Path, error: type[LdmsrError] = WeightsError, match: str = "") -> None:
    source = save_checkpoint(case, folder / "old.pt")
    with pytest.raises(error, match=match) as caught:
        import_generative(source, folder / "new.pt", case)
    assert str(folder) not in str(caught.value)
    assert [path.name for path in folder.iterdir()] == ["old.pt"]


def change_arguments(monkeypatch: pytest.MonkeyPatch, **changed: object) -> None:
    def wrong(*given: Any) -> dict[str, Any]:
        return {**monai_arguments(*given), **changed}

    monkeypatch.setattr(generative_weights, "monai_arguments", wrong)


def change_keys(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, Tensor], dict[str, Tensor]], None]
) -> None:
    def wrong(state: dict[str, Tensor]) -> dict[str, Tensor]:
        converted = monai_keys(state)
        change(converted, state)
        return converted

    monkeypatch.setattr(generative_weights, "monai_keys", wrong)


@pytest.mark.parametrize("case", [CODEC, UNET], ids=["codec", "unet"])
def test_options_that_monai_takes_by_default_are_refused(
    case: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_arguments(monkeypatch, include_fc=True)
    refused(case, tmp_path, match="not those of MONAI")

    # As MONAI's load_old_state_dict fills the layer: everything loads, and the result is silently wrong.
    def fill(converted: dict[str, Tensor], state: dict[str, Tensor]) -> None:
        for key, value in state.items():
            if ".proj_attn." in key:
                converted[key.replace(".proj_attn.", ".attn.out_proj.")] = value

    change_keys(monkeypatch, fill)
    refused(case, tmp_path, match="differs from generative's")


def test_an_argument_that_is_a_little_wrong_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for case, changed in (
        (CODEC, {"norm_eps": 2e-6}),
        (UNET, {"num_head_channels": 8}),
        (UNET, {"norm_num_groups": 8}),
    ):
        change_arguments(monkeypatch, **changed)
        refused(case, tmp_path, match="With random weights, '(mean|output)' .* differs")
    change_arguments(monkeypatch, act=["LEAKYRELU", {"negative_slope": 0.01}])
    refused(CASES["vqvae"], tmp_path, match="differs")
    change_arguments(monkeypatch, activation=["LEAKYRELU", {"negative_slope": 0.21}])
    refused(CASES["critic"], tmp_path, match="'feature 1' .* differs")


def test_tensors_in_a_wrong_place_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def swap(first: str, second: str) -> Callable[[dict[str, Tensor], dict[str, Tensor]], None]:
        def swapped(converted: dict[str, Tensor], _: dict[str, Tensor]) -> None:
            for key in [key for key in converted if first in key]:
                other = key.replace(first, second)
                converted[key], converted[other] = converted[other], converted[key]

        return swapped

    for case, first, second in (
        (CODEC, ".to_q.", ".to_k."),
        (UNET, ".to_k.", ".to_v."),
        (UNET, ".resnet_1.norm1", ".resnet_2.norm1"),
    ):
        change_keys(monkeypatch, swap(first, second))
        refused({**case, "num_channels": [16, 16]}, tmp_path, match="differs")


@pytest.mark.parametrize(
    ("name", "key", "output"),
    [
        ("codec", "quant_conv_log_sigma.conv.bias", "sigma"),
        ("codec", "post_quant_conv.conv.bias", "decoded"),
        ("unet of classes", "class_embedding.weight", "output"),
        ("unet with context", "middle_block.attention.transformer_blocks.1.attn2.to_v.weight", "output"),
        ("unet", "time_embed.2.weight", "output"),
        ("vqvae", "encoder.blocks.0.conv.weight", "encoded"),
        ("vqvae", "quantizer.quantizer.embedding.weight", "(codes|decoded)"),
        ("critic", "final_conv.conv.bias", "logits"),
        ("critic", "1.adn.N.running_mean", "feature 3"),
    ],
)
def test_every_part_of_a_network_counts(
    name: str, key: str, output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One tensor that is a thousandth off is found, by the first output that it reaches."""
    change_keys(monkeypatch, lambda converted, _: converted.update({key: 1.001 * converted[key]}))
    refused(CASES[name], tmp_path, match=f"With random weights, '{output}' .* differs")


def test_silent_layers_prove_nothing_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An untrained U-Net ends in zeros: its output is the same whatever comes before. Random weights tell."""
    change_arguments(monkeypatch, include_fc=True)
    change_keys(monkeypatch, lambda converted, _: converted.update({
        f"{place}.attn.out_proj.{kind}": torch.zeros((16, 16) if kind == "weight" else 16)
        for place in ("down_blocks.1.attentions.0", "middle_block.attention", "up_blocks.0.attentions.0",
                      "up_blocks.0.attentions.1")
        for kind in ("weight", "bias")
    }))  # fmt: skip
    untrained = trained(UNET)
    for value in untrained.out.state_dict().values():
        value.zero_()
    torch.save(untrained.state_dict(), tmp_path / "old.pt")
    with pytest.raises(WeightsError, match=r"With random weights, 'output' .* differs"):
        import_generative(tmp_path / "old.pt", tmp_path / "new.pt", UNET)


def test_the_written_file_is_what_is_proved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(state: dict[str, Tensor], path: Path) -> None:
        weight = state["decoder.blocks.0.conv.weight"].clone()
        weight.view(-1)[5] *= 1.0001
        save({**state, "decoder.blocks.0.conv.weight": weight}, path)

    source, save = save_checkpoint(CODEC, tmp_path / "old.pt"), torch.save
    monkeypatch.setattr(torch, "save", damaged)
    with pytest.raises(WeightsError, match=r"With these weights, 'decoded' .* differs"):
        import_generative(source, tmp_path / "new.pt", CODEC)


@pytest.mark.parametrize(
    ("network", "match"),
    [
        # Transposed convolutions of generative have kernels of 3 pixels, MONAI's of 2.
        ({**CODEC, "use_convtranspose": True}, "not those of MONAI"),
        # MONAI's flash attention drops out in evaluation, too.
        ({**CASES["unet with context"], "use_flash_attention": True}, "'output' .* differs"),
    ],
)
def test_what_monai_does_otherwise_is_refused(network: dict[str, Any], match: str, tmp_path: Path) -> None:
    refused(network, tmp_path, match=match)


# Arguments


@pytest.mark.parametrize(
    ("network", "match"),
    [
        ({**CODEC, "channels": [8, 16]}, "unexpected keyword argument .channels"),
        (without(UNET, "in_channels"), "missing a required argument: .in_channels"),
        ({**CODEC, "norm_num_groups": 3}, "AutoencoderKL of generative cannot be built"),
        ({**CODEC, "norm_eps": "1e-6"}, "does not run on"),
        ({**CODEC, "_target_": "monai.networks.nets.AutoencoderKL"}, "none of generative.networks.nets"),
        ({**CODEC, "_target_": "generative.networks.nets.ControlNet"}, "none of generative.networks.nets"),
        ({**CODEC, "in_channels": np.int64(2)}, "not a plain value"),
        ({**CODEC, "_target_": "os.system"}, "none of generative.networks.nets"),
    ],
)
def test_arguments_that_are_wrong(network: dict[str, Any], match: str, tmp_path: Path) -> None:
    source = save_checkpoint(CODEC, tmp_path / "old.pt")
    with pytest.raises((SettingsError, WeightsError), match=match):
        import_generative(source, tmp_path / "new.pt", network)
    assert [path.name for path in tmp_path.iterdir()] == ["old.pt"]


# Files and command


def test_files_that_are_there_stay(tmp_path: Path) -> None:
    source = save_checkpoint(CODEC, tmp_path / "old.pt")
    for name in ("new.pt", "new.yaml"):
        (tmp_path / name).write_text("precious")
        with pytest.raises(OutputError, match=rf"'{name}' is there already"):
            import_generative(source, tmp_path / "new.pt", CODEC)
        assert (tmp_path / name).read_text() == "precious"
        if name == "new.pt":
            (tmp_path / name).unlink()
    (tmp_path / "new.pt").write_text("precious")
    with pytest.raises(WeightsError):
        import_generative(source, tmp_path / "new.pt", {**CODEC, "num_res_blocks": 2}, overwrite=True)
    assert (tmp_path / "new.pt").read_text() == "precious"
    import_generative(source, tmp_path / "new.pt", CODEC, overwrite=True)
    built_by_monai(tmp_path / "new.yaml", tmp_path / "new.pt")
    with pytest.raises(SettingsError, match="is the checkpoint itself"):
        import_generative(source, source, CODEC, overwrite=True)
    with pytest.raises(SettingsError, match=re.escape("extension .pt")):
        import_generative(source, tmp_path / "new", CODEC)
    with pytest.raises(OutputError, match="cannot be written"):
        import_generative(source, source / "new.pt", CODEC)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_too_little_memory_and_a_full_disk_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, raised: Exception = error) -> None:
        raise raised

    source, config = save_checkpoint(CODEC, tmp_path / "old.pt"), tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(CODEC))
    with monkeypatch.context() as patch:
        patch.setattr(nets.AutoencoderKL, "encode", fail)
        assert main(["import-generative", str(source), str(tmp_path / "new.pt"), "--network", str(config)]) == 8
        assert "Out of memory" in capsys.readouterr().err
    full = error if isinstance(error, RuntimeError) else OSError(28, "No space left on device")
    monkeypatch.setattr(torch, "save", partial(fail, raised=full))
    with pytest.raises(OutputError, match=r"new\.pt cannot be written"):
        import_generative(source, tmp_path / "new.pt", CODEC)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "old.pt"]


def test_a_view_is_written_without_the_rest(tmp_path: Path) -> None:
    """As flattened optimizer or averaging buffers leave them."""
    source = save_checkpoint(
        CODEC, tmp_path / "old.pt", lambda state: {key: torch.stack([value] * 9)[4] for key, value in state.items()}
    )
    import_generative(source, tmp_path / "new.pt", CODEC)
    assert (tmp_path / "new.pt").stat().st_size < 0.4 * source.stat().st_size
    built_by_monai(tmp_path / "new.yaml", tmp_path / "new.pt")


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, config = save_checkpoint(CODEC, tmp_path / "old.pt"), tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(CODEC))
    new = tmp_path / "made" / "codec.pt"
    command = ["import-generative", str(source), str(new), "--network", str(config)]
    assert main([*command, "--key", "model"]) == 1
    assert "[BAD_WEIGHTS]" in capsys.readouterr().err
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert file_sha256(new) in printed
    assert re.search(r"decoded differs by \d\.\de[+-]\d\d of its largest value", printed)
    assert main(command) == 7
    assert main([*command, "--overwrite"]) == 0
    clash = [*command[:2], str(config.with_suffix(".pt")), "--network", str(config), "--overwrite"]
    assert main(clash) == 1
    assert "_target_" in config.read_text()


def test_a_config_as_json(tmp_path: Path) -> None:
    source, config = save_checkpoint(CODEC, tmp_path / "old.pt"), tmp_path / "config.json"
    config.write_text(json.dumps(CODEC))
    assert main(["import-generative", str(source), str(tmp_path / "new.pt"), "--network", str(config)]) == 0


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.mkdir [ran]",
        "[" * 100_000,
        "_target_: VQVAE\nact: &a [*a]",
        "- 1",
        "a: 2026-01-01",
        None,
    ],
)
def test_configs_that_are_hostile_or_broken(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    if text is not None:
        (tmp_path / "c.yaml").write_text(text)
    assert main(["import-generative", "old.pt", "new.pt", "--network", "c.yaml"]) == 1
    assert "The config 'c.yaml'" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} <= {"c.yaml"}


@pytest.mark.parametrize(
    "hidden", ["$__import__('os').mkdir('ran')", {"_target_": "os.mkdir", "path": "ran"}, "%other.yaml::a", "@a"]
)
def test_nothing_is_written_that_monai_would_run(hidden: object, tmp_path: Path) -> None:
    """Both networks take any value for ``inplace``; MONAI's parser would act on it when it reads the new config."""
    refused({**CASES["vqvae"], "act": ["RELU", {"inplace": hidden}]}, tmp_path, SettingsError, "Write the value itself")


# Checkpoints


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (dict, None),
        (lambda state: {f"module.{key}": value for key, value in state.items()}, None),
        (lambda state: {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, "state_dict"),
        (lambda state: {"nets": {"codec": state}, "bare": torch.zeros(2)}, "nets/codec"),
        (lambda state: {key: value.half() for key, value in state.items()}, None),
    ],
)
def test_where_checkpoints_keep_tensors(
    content: Callable[[dict[str, Tensor]], object], key: str | None, tmp_path: Path
) -> None:
    source = save_checkpoint(CODEC, tmp_path / "old.pt", content)
    imported = import_generative(source, tmp_path / "new.pt", CODEC, key=key)
    assert imported.n_unused == sum(".proj_attn." in key for key in trained(CODEC).state_dict()) > 0
    written = torch.load(tmp_path / "new.pt", weights_only=True)
    original = monai_keys(trained(CODEC).state_dict())
    assert written.keys() == original.keys()
    assert len(written) == imported.n_tensors
    assert all(torch.equal(value, original[key].to(value.dtype)) for key, value in written.items())


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (lambda s: without(s, "post_quant_conv"), "Missing .*post_quant_conv.conv.bias"),
        (lambda s: {**s, "more": torch.zeros(1)}, "Unexpected .*more"),
        (lambda s: {**s, "epoch": 3}, "is not of this network"),
        (lambda s: {**s, "post_quant_conv.conv.bias": torch.zeros(7)}, r"size mismatch for post_quant_conv.conv.bias"),
        (lambda s: {**s, "post_quant_conv.conv.bias": torch.full((3,), torch.nan)}, "these weights, 'decoded' .* nan"),
        (lambda s: {**s, "quant_conv_mu.conv.bias": torch.full((3,), torch.inf)}, "these weights, 'mean' .* nan"),
        (lambda s: {**s, "post_quant_conv.conv.bias": torch.ones(3).to_sparse()}, "is not of this network"),
        (lambda s: {**s, "post_quant_conv.conv.bias": torch.ones(3, device="meta")}, "not those of MONAI"),
        (lambda s: {"epoch": 3, "state_dict": s}, "Its keys there: epoch, state_dict. Say by --key"),
        (lambda s: [1, 2], "no named tensors"),
        (lambda s: torch.zeros(3), "no named tensors"),
        (lambda s: trained(CASES["critic"]).state_dict(), "Missing"),
        (monai_keys, "Missing"),
    ],
)
def test_checkpoints_of_something_else(
    content: Callable[[dict[str, Tensor]], object], match: str, tmp_path: Path
) -> None:
    source = save_checkpoint(CODEC, tmp_path / "old.pt", content)
    with pytest.raises(WeightsError, match=match):
        import_generative(source, tmp_path / "new.pt", CODEC)
    assert [path.name for path in tmp_path.iterdir()] == ["old.pt"]


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
    match = "does not exist" if kind == "missing" else r"state_dict\(\) alone"
    with pytest.raises(WeightsError, match=match) as caught:
        import_generative(source, tmp_path / "new.pt", CODEC)
    assert str(tmp_path) not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} <= {"old.pt"}


def test_the_extra_is_named_when_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save_checkpoint(CODEC, tmp_path / "old.pt")
    monkeypatch.setitem(sys.modules, "generative.networks.nets", None)
    with pytest.raises(SettingsError, match=r"pip install monai_ldmsr\[generative\]"):
        import_generative(source, tmp_path / "new.pt", CODEC)
