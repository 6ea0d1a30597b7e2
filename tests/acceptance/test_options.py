"""Options of the command: limits, numbers in every form, and messages that repeat what was typed."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pydicom
import pytest
from batch_runs import resolve
from dicom_fixtures import make_series
from monai.bundle import ConfigWorkflow
from odd_run import run

from monai_ldmsr import super_resolve
from monai_ldmsr.bundle_config import open_workflow
from monai_ldmsr.bundle_folder import find_bundle
from monai_ldmsr.cli import command_parser, main
from monai_ldmsr.errors import SettingsError
from monai_ldmsr.io import ReadLimits
from monai_ldmsr.io.limits import parse_limits
from monai_ldmsr.number_settings import real_number, whole_number

COMMANDS = {
    "run": ["s", "o"],
    "batch": ["s", "o"],
    "evaluate": ["s", "o"],
    "train": ["s", "o"],
    "pack": ["s", "o"],
    "serve": ["o", "--allow", "X"],
    "fetch": ["A@h:1", "d"],
    "label": ["--studies", "d"],
}


@pytest.mark.parametrize(
    ("given", "value"), [("voxels=5", 5), ("voxels=2G", 2**31), ("voxels = 3k", 3072), ("voxels=1T", 2**40)]
)
def test_limits_are_parsed(given: str, value: int) -> None:
    limits = parse_limits([given, "volumes=9"])
    assert limits == ReadLimits(voxels=value, volumes=9)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        (["voxel=5"], "no limit 'voxel'.*voxels"),
        (["5"], "NAME=VALUE"),
        (["voxels=0"], "'0'"),
        (["voxels=-1"], "'-1'"),
        (["voxels=1.5"], "'1.5'"),
        (["voxels=1e9"], "'1e9'"),
        (["voxels=5X"], "'5X'"),
        (["voxels="], "''"),
        (["voxels=5", "voxels=6"], "twice"),
        ([f"voxels={'9' * 5000}"], "whole number"),
        (["voxels=\u0665"], "whole number"),
    ],
)
def test_wrong_limits_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str], given: list[str], word: str) -> None:
    with pytest.raises(SettingsError, match=word):
        parse_limits(given)
    make_series(tmp_path / "in", "CT", (8, 9, 3))
    options = [part for text in given for part in ("--limit", text)]
    assert main(["run", str(tmp_path / "in"), str(tmp_path / "out"), *options]) == 1
    assert re.search(word, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_that_reads_takes_limits(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = command_parser().parse_args(
        [command, *COMMANDS[command], "--limit", "voxels=5", "--limit", "volumes=6"]
    )
    assert parse_limits(arguments.limit) == ReadLimits(voxels=5, volumes=6)
    with pytest.raises(SystemExit):
        main([command, "--help"])
    told = "".join(capsys.readouterr().out.split())
    for field in fields(ReadLimits):
        assert f"{field.name}=" in told


def test_what_is_too_large_is_read_with_the_option_that_the_message_names(
    tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_series(tmp_path / "in", "CT", (8, 9, 3))
    assert resolve(tmp_path / "in", tmp_path / "out", bundle, "--limit", "voxels=100") == 2
    said = capsys.readouterr().out
    assert "TOO_LARGE" in said
    assert "--limit voxels=NUMBER" in said
    assert "ReadLimits(voxels=...)" in said
    assert resolve(tmp_path / "in", tmp_path / "out", bundle, "--limit", "voxels=216") == 0


@pytest.mark.parametrize("command", ["evaluate", "pack"])
def test_limits_reach_what_measures_and_packs(tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    make_series(tmp_path / "in" / "p", "CT", (8, 9, 3))
    more = ["--splits", "train"] if command == "pack" else []
    (tmp_path / "in" / "manifest.csv").write_text("file,split,subject\np,train,a\n")
    split = ["--split", "train"] if command == "evaluate" else more
    assert main([command, str(tmp_path / "in"), str(tmp_path / "o"), *split, "--limit", "voxels=100"]) == 2
    assert "TOO_LARGE" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "batch", "evaluate"])
def test_messages_repeat_the_path_that_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert main([command, "../abc", "../out"]) == 2
    assert "The source '../abc' does not exist." in capsys.readouterr().err


def test_messages_repeat_nothing_of_what_lies_below(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "src" / "MARKER").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert main(["run", "src", "out", "--bundle", str(bundle)]) == 2
    assert main(["run", "src", "src/out", "--bundle", str(bundle)]) == 1
    (tmp_path / "src" / "MARKER" / "junk").write_text("x")
    (tmp_path / "closed").write_text("")
    assert main(["run", "src", "closed/out", "--bundle", str(bundle), "--device", "cpu"]) == 7
    said = capsys.readouterr().err
    assert "The source folder 'src' holds no file." in said
    assert "The output folder 'src/out' lies inside the source 'src'." in said
    assert "'closed/out'" in said
    assert "MARKER" not in said
    assert str(tmp_path / "src") not in said


@pytest.mark.parametrize("value", [2, 2.0, "2", "2.0", " 2 "])
def test_a_whole_number_may_come_in_every_form(value: object) -> None:
    assert whole_number("n", value) == 2
    assert isinstance(whole_number("n", value), int)


@pytest.mark.parametrize(
    "value", [2.5, "2.5", "two", "", None, True, float("nan"), float("inf"), "1e400", -1, [2], 1e300]
)
def test_anything_else_is_refused(value: object) -> None:
    with pytest.raises(SettingsError, match=r"n is .*whole number"):
        whole_number("n", value)
    if value not in (2.5, "2.5"):
        with pytest.raises(SettingsError, match=r"n is .*give a number"):
            real_number("n", value, 0.0, 9.0)


def test_numbers_beyond_all_measure_are_not_repeated() -> None:
    for value in (10**5000, "9" * 5000, "MARKER^NAME"):
        with pytest.raises(SettingsError) as caught:
            whole_number("n", value)
        assert len(str(caught.value)) < 80
        assert "MARKER" not in str(caught.value)


def images(output: Path) -> dict[str, bytes]:
    found = {path.name: pydicom.dcmread(path) for path in output.glob("*/dicom/*")}
    return {name: image.SOPInstanceUID.encode() + image.PixelData for name, image in found.items()}


def by_bundle(bundle: Path, source: Path, output: Path, **changed: object) -> None:
    """As ``python -m monai.bundle run`` does, without its process."""
    workflow = ConfigWorkflow(
        workflow_type="inference",
        config_file=str(bundle / "configs" / "inference.yaml"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        logging_file=False,
        bundle_root=str(bundle),
        dataset_dir=str(source),
        output_dir=str(output),
        device="cpu",
        **changed,
    )
    workflow.initialize()
    workflow.run()


def test_a_config_takes_whole_numbers_as_floats_and_text(tmp_path: Path, bundle: Path) -> None:
    make_series(tmp_path / "in", "CT", (8, 9, 3))
    plain = {"factor": 3, "seed": 1, "num_inference_steps": 2, "detail": 0.5, "consistency": 1.0, "batch_size": 2}
    odd = dict(zip(plain, (3.0, "1.0", 2.0, "0.5", 1, "2"), strict=True))
    by_bundle(bundle, tmp_path / "in", tmp_path / "plain", **plain)
    by_bundle(bundle, tmp_path / "in", tmp_path / "odd", **odd)
    assert len(images(tmp_path / "plain")) == 3
    assert images(tmp_path / "odd") == images(tmp_path / "plain"), "the same UIDs and pixels"
    text: dict[str, Any] = {"factor": "3.0", "seed": 1.0, "detail": "0.5"}
    super_resolve(tmp_path / "in", tmp_path / "called", bundle=bundle, device="cpu", **text)
    assert len(images(tmp_path / "called")) == 3


@pytest.mark.parametrize(
    ("key", "value"),
    [("factor", 2.5), ("factor", "two"), ("seed", 1.5), ("num_inference_steps", "x"), ("detail", "high")],
)
def test_a_config_says_clearly_what_is_wrong(tmp_path: Path, bundle: Path, key: str, value: object) -> None:
    make_series(tmp_path / "in", "CT", (8, 9, 3))
    with pytest.raises(SystemExit, match=f"{key} is"):
        by_bundle(bundle, tmp_path / "in", tmp_path / "out", **{key: value})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("key", "advice"),
    [("factr", "did you mean factor"), ("num_inference_step", "num_inference_steps"), ("zzz", "leave")],
)
def test_a_config_refuses_an_override_that_nothing_uses(tmp_path: Path, bundle: Path, key: str, advice: str) -> None:
    with pytest.raises(SystemExit, match=rf"'{key}'.*{advice}"):
        by_bundle(bundle, tmp_path / "in", tmp_path / "out", **{key: 4})
    # A key that another override refers to is used.
    make_series(tmp_path / "in", "CT", (8, 9, 3))
    by_bundle(bundle, tmp_path / "in", tmp_path / "out", **{key: 3, "factor": f"@{key}"})
    assert len(images(tmp_path / "out")) == 3


def test_a_setting_that_a_bundle_has_not_is_refused(tmp_path: Path) -> None:
    make_series(tmp_path / "in", "CT", (8, 9, 3))
    own = "its settings are factor, consistency, operator, "
    with pytest.raises(SettingsError, match=f"uses 'detail'; {own}"):
        super_resolve(tmp_path / "in", tmp_path / "out", bundle="srgan_sr", detail=0.5)
    # Where nothing is drawn or refused, any seed is as good, and nothing is left to force.
    given = {"seed": 1, "force": True, "modality": "CT", "device": "cpu"}
    summary = super_resolve(tmp_path / "in", tmp_path / "out", bundle="srgan_sr", **given)
    assert summary.exit_code == 0


@pytest.mark.parametrize(("key", "value"), [("detail", 0.7), ("flat_detail", 0.3), ("slice_detail", 1.0)])
def test_a_setting_that_an_overlay_leaves_without_a_use_is_refused(key: str, value: float) -> None:
    """Only the flow's sampler and its network take these: plain diffusion would leave them aside in silence."""
    with pytest.raises(SettingsError, match=f"uses '{key}'; (its settings are factor,|leave it away)"):
        open_workflow(find_bundle("ldm_sr"), "ddpm", **{key: value})
    open_workflow(find_bundle("ldm_sr"), "ddpm", num_inference_steps=7)


def test_steps_are_refused_where_another_sampler_does_not_take_them() -> None:
    own = {"sampler#_target_": "monai_ldmsr.samplers.AnchoredFlow", "sampler#num_inference_steps": 1}
    open_workflow(find_bundle("ldm_sr"), **own)
    with pytest.raises(SettingsError, match="uses 'num_inference_steps'"):
        open_workflow(find_bundle("ldm_sr"), **own, num_inference_steps=4)


def test_what_another_run_id_refers_to_is_used(tmp_path: Path, bundle: Path) -> None:
    config = str(bundle / "configs" / "inference.yaml")
    given = {"bundle_root": str(bundle), "dataset_dir": str(tmp_path), "said": "x", "telling": ["$print(@said)"]}
    ConfigWorkflow(config, logging_file=False, run_id="telling", **given).initialize()
    with pytest.raises(SystemExit, match="uses 'said'"):
        ConfigWorkflow(config, logging_file=False, **given).initialize()


def test_a_config_names_and_numbers_results(tmp_path: Path, bundle: Path) -> None:
    make_series(tmp_path / "in" / "t1", "CT", (8, 9, 3))
    by_bundle(bundle, tmp_path / "in", tmp_path / "out", names="stem", series_number=77, series_description="mine")
    [path] = tmp_path.glob("out/t1-*/dicom/IM0001.dcm")
    image = pydicom.dcmread(path)
    assert (image.SeriesNumber, image.SeriesDescription) == (77, "mine")
    assert run(tmp_path / "in", tmp_path / "other", bundle)[0] == 0
