"""The command as people type it: misspelt, completed by a shell, quiet, and for a part of what there is."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from batch_runs import batch, in_this_process, outcomes, resolve
from dicom_fixtures import make_series
from odd_volumes import nifti

from monai_ldmsr import super_resolve
from monai_ldmsr.cli import main
from monai_ldmsr.errors import ReasonCode, SourceError

__all__ = ["in_this_process"]

SHAPE = (8, 9, 3)


@pytest.mark.parametrize(
    ("typed", "usage", "words"),
    [
        ("run --factr 2", "ldmsr run", "no option --factr; did you mean --factor?"),
        ("run --factr=2 a b", "ldmsr run", "did you mean --factor?"),
        ("run --fac 2 a b", "ldmsr run", "did you mean --factor?"),
        ("batch a b --exclud x", "ldmsr batch", "did you mean --exclude?"),
        ("run a b --zzz", "ldmsr run", "no option --zzz. See ldmsr run --help."),
        ("rum a b", "ldmsr ", "there is no 'rum'; did you mean run?"),
        ("--log-lvel debug run a b", "ldmsr ", "did you mean --log-level?"),
        ("--log-level debgu run a b", "ldmsr ", "did you mean debug?"),
        ("run a b c", "ldmsr run", "'c' is one argument too many"),
        ("run a", "ldmsr run", "OUT"),
    ],
)
def test_what_is_misspelt_is_answered_by_its_command(
    typed: str, usage: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(typed.split())
    said = capsys.readouterr().err
    assert ended.value.code == 1
    assert said.startswith(f"usage: {usage}")
    assert words in said


def test_the_package_is_the_command() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "monai_ldmsr", "--version"], capture_output=True, text=True, check=True
    )
    assert found.stdout.startswith("ldmsr ")


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_completes(shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = tmp_path / "completion"
    script.write_text(capsys.readouterr().out)
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    assert subprocess.run([shell, "-n", script], check=False).returncode == 0
    if shell == "bash":
        ask = "COMP_WORDS=(ldmsr {}); COMP_CWORD={}; _shtab_ldmsr; echo ${{COMPREPLY[@]}}"
        for words, number, expected in [
            ("ba", 1, "batch"),
            ("run --oper", 2, "--operator"),
            ("run --factor 3", 3, "3"),
        ]:
            line = f"source {script}; {ask.format(words, number)}"
            found = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True).stdout
            assert found.split() == [expected]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Series 3 (CT), 7 (MR), a damaged CT and a volume file."""
    folder = tmp_path / "in"
    make_series(folder / "ct", "CT", SHAPE, SeriesInstanceUID="2.25.3")
    make_series(folder / "mr", "MR", SHAPE, SeriesNumber=7, SeriesDescription="T1 localised MARKER")
    make_series(folder / "lost", "CT", SHAPE, PixelSpacing=None, SeriesNumber=9)
    nifti("scan.nii")(folder)
    return folder


@pytest.mark.parametrize(
    ("options", "n_done", "n_failed", "n_not_chosen"),
    [
        ("--include MR", 1, 0, 3),
        ("--include mr --include scan", 2, 0, 2),
        ("--exclude T1*", 2, 1, 1),
        ("--exclude CT", 2, 0, 2),
        ("--series 2.25.3", 1, 0, 3),
        ("--series 3 --series 7", 2, 0, 2),
        ("--modality MR --include MR", 2, 0, 2),
        ("--include CT --exclude *phantom*", 0, 1, 3),
    ],
)
def test_a_part_is_worked_on(
    source: Path,
    tmp_path: Path,
    bundle: Path,
    options: str,
    n_done: int,
    n_failed: int,
    n_not_chosen: int,
    capsys: pytest.CaptureFixture[str],
    in_this_process: None,
) -> None:
    code = resolve(source, tmp_path / "out", bundle, *options.split())
    said = capsys.readouterr()
    if not n_done:
        assert (code, ReasonCode.NOTHING_CHOSEN.value in said.err) == (2, True)
        return
    found = [status for status, _ in outcomes(tmp_path / "out").values()]
    assert (code, found.count("done"), found.count("failed")) == (8 if n_failed else 0, n_done, n_failed)
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["not_chosen"] == n_not_chosen
    assert f"{n_not_chosen} not chosen" in said.out
    assert "MARKER" not in said.out + said.err
    assert batch(source, tmp_path / "batch", bundle, *options.split()) == code
    assert outcomes(tmp_path / "batch") == outcomes(tmp_path / "out")


@pytest.mark.parametrize("options", ["--include NM", "--series 4", "--series 3 --series 4"])
def test_nothing_chosen_is_an_error(
    source: Path, tmp_path: Path, bundle: Path, options: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert resolve(source, tmp_path / "out", bundle, *options.split()) == 2
    assert "NOTHING_CHOSEN" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_python_and_the_names_of_cases_choose_too(source: Path, tmp_path: Path, bundle: Path) -> None:
    done = super_resolve(source, tmp_path / "out", bundle=bundle, device="cpu", series=[3])
    (case,) = [one.case for one in done.cases]
    again = super_resolve(source, tmp_path / "out", bundle=bundle, device="cpu", series=[case])
    assert [one.case for one in again.cases] == [case]
    with pytest.raises(SourceError, match="1 of 1 values of --series"):
        super_resolve(source, tmp_path / "out", bundle=bundle, device="cpu", series=["x"])


@pytest.mark.parametrize("command", ["run", "batch"])
def test_quiet_says_what_failed_and_nothing_else(
    source: Path, tmp_path: Path, bundle: Path, command: str, capfd: pytest.CaptureFixture[str], in_this_process: None
) -> None:
    assert resolve(source, tmp_path / "out", bundle, "--quiet", command=command) == 8
    said = capfd.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith("failed")
    assert "NO_GEOMETRY" in line
