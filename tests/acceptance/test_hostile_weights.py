"""Weights are data: a file that holds a program, or belongs to another network, is refused and nothing of it runs."""

from __future__ import annotations

import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch
from hostile_pickle import Program
from monai.bundle import ConfigParser

from monai_ldmsr.bundle_folder import bundle_info, find_bundle
from monai_ldmsr.errors import WeightsError
from monai_ldmsr.networks import load_weights
from monai_ldmsr.storage import file_sha256
from monai_ldmsr.workflow import load_super_resolver


def save(kind: str, content: object, path: Path) -> None:
    if kind == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")


@pytest.mark.parametrize("kind", ["pickle", "zip", "legacy"])
@pytest.mark.parametrize("place", ["whole", "value", "key"])
def test_a_program_in_a_weights_file_does_not_run(tmp_path: Path, kind: str, place: str) -> None:
    program, network = Program(tmp_path / "ran"), torch.nn.Linear(2, 2)
    state: object = {
        "whole": program,
        "value": {**network.state_dict(), "bias": program},
        "key": {**network.state_dict(), "more": [1, {"deep": program}]},
    }[place]
    save(kind, state, tmp_path / "model.pt")
    with pytest.raises(WeightsError, match="plain state dictionary"):
        load_weights(network, tmp_path / "model.pt", file_sha256(tmp_path / "model.pt"))
    assert not (tmp_path / "ran").exists()
    if place == "whole" and kind == "pickle":  # the trap itself works
        pickle.loads((tmp_path / "model.pt").read_bytes())
        assert (tmp_path / "ran").exists()


def test_a_damaged_file_of_the_older_format(tmp_path: Path) -> None:
    """torch asserts that all storages are there."""
    network, path = torch.nn.Linear(2, 2), tmp_path / "model.pt"
    save("legacy", network.state_dict(), path)
    *_, last = re.finditer(rb"\d{8,}", path.read_bytes())
    with path.open("r+b") as file:
        file.seek(last.start())
        file.write(b"0000")
    with pytest.raises(WeightsError, match="AssertionError"):
        load_weights(network, path)


@pytest.mark.parametrize("content", ["program", "other network", "other shape", "no dictionary", "cut", "empty"])
def test_a_bundle_with_foreign_weights_is_refused(tmp_path: Path, content: str) -> None:
    """Even where the metadata name the hash of just this file."""
    bundle = tmp_path / "ldm_sr"
    shutil.copytree(find_bundle("ldm_sr"), bundle)
    weights = bundle / "models" / "model.pt"
    if content == "program":
        save("zip", Program(tmp_path / "ran"), weights)
    elif content == "other network":
        shutil.copy(find_bundle("srgan_sr") / "models" / "model.pt", weights)
    elif content == "other shape":
        state = torch.load(weights, weights_only=True)
        name = next(key for key, value in state.items() if value.ndim == 4)
        torch.save({**state, name: state[name][:1]}, weights)
    elif content == "no dictionary":
        torch.save(torch.zeros(3), weights)
    elif content == "cut":
        weights.write_bytes(weights.read_bytes()[:-5000])
    else:
        weights.write_bytes(b"")
    metadata = bundle / "configs" / "metadata.json"
    metadata.write_text(metadata.read_text().replace(bundle_info(bundle).weights_sha256, file_sha256(weights)))
    with pytest.raises(WeightsError, match=r"does not fit|plain state dictionary|no plain") as caught:
        load_super_resolver(bundle)
    assert str(tmp_path) not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_the_same_text_in_a_config_would_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tests with ``$`` guard against is real."""
    monkeypatch.chdir(tmp_path)
    ConfigParser({"x": "$open('trap','w')"}).get_parsed_content("x")
    assert (tmp_path / "trap").exists()
