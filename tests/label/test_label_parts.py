"""Parts of the MONAI Label app that need no MONAI Label."""

from __future__ import annotations

import importlib
import json
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

import nibabel
import numpy as np
import pytest
import SimpleITK

from monai_ldmsr.bundle_folder import find_bundle
from monai_ldmsr.cli import main
from monai_ldmsr.errors import LdmsrError, OutputError, ReasonCode, SettingsError
from monai_ldmsr.geometry import VolumeGeometry
from monai_ldmsr.io.volume_file import copy_volume_file, write_empty_labels
from monai_ldmsr.label.inference import InferenceTurn, infer
from monai_ldmsr.label.options import offered_options, requested_name, requested_settings, settings_digest
from monai_ldmsr.label.results import ClientFile
from monai_ldmsr.outcome import Outcome
from monai_ldmsr.settings import WorkSettings
from monai_ldmsr.storage import clear_working_folders, working_folder


def settings_of(**request: object) -> WorkSettings:
    return requested_settings(request, "ldm_sr", None)


def test_options_come_as_clients_send_them() -> None:
    assert settings_of() == WorkSettings()
    # The lists that the server offers mean their first values; "" is the bundle's.
    assert settings_of(**offered_options("ldm_sr")) == WorkSettings()
    told = settings_of(
        factor="4", steps="1", seed=7.0, detail="0.5", consistency=1, operator="kspace", noise="2.5", modality="CT"
    )
    assert told == WorkSettings(4, 1, 0.5, 1.0, "kspace", 2.5, 7, "CT")
    assert settings_of(noise="0").noise == 0.0
    assert settings_of(num_inference_steps=2).num_inference_steps == 2
    assert settings_of(client_id="x", result_dtype="uint8") == WorkSettings()


def test_only_what_a_network_has_is_offered() -> None:
    """Each option that is offered for a bundle is one that its config uses, so that no client is refused for it."""
    with_dial, without = (offered_options(name).keys() for name in ("ldm_sr", "srgan_sr"))
    of_slices = {"slice_spacing", "isotropic", "factor_slices", "profile", "slice_thickness"}
    assert with_dial - without == {"detail", "flat_detail", "steps", "noise"} | of_slices
    assert without - with_dial == set()


@pytest.mark.parametrize(
    "wrong",
    [
        {"factor": 1},
        {"factor": 2.5},
        {"factor": False},
        {"factor": "nan"},
        {"seed": "1e400"},
        {"seed": 10**400},
        {"seed": float("inf")},
        {"steps": {"a": 1}},
        {"detail": "much"},
        {"noise": "some"},
        {"operator": "$print('x')"},
        {"operator": "a" * 21},
        {"modality": 3},
    ],
)
def test_wrong_options_are_refused_and_not_repeated(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsError) as raised:
        settings_of(**wrong)
    assert "print" not in str(raised.value)
    assert next(iter(wrong)).replace("steps", "num_inference_steps") in str(raised.value)


def test_other_words_of_a_request() -> None:
    assert requested_name({"image": "a"}, "image") == requested_name({"image": ["a", "b"]}, "image") == "a"
    assert requested_name({"image": None}, "image") == requested_name({}, "image") == ""
    for wrong in (3, {}, [["a"]]):
        with pytest.raises(SettingsError, match="image is not a text"):
            requested_name({"image": wrong}, "image")


def test_only_what_a_dead_process_left_is_cleared(tmp_path: Path) -> None:
    code = f"""
import os
from pathlib import Path
from monai_ldmsr.storage import working_folder
with working_folder(Path({str(tmp_path)!r})) as folder:
    (folder / "half").write_text("a")
    os._exit(9)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    (left,) = tmp_path.iterdir()
    with working_folder(tmp_path) as alive:
        clear_working_folders(tmp_path)
        assert list(tmp_path.iterdir()) == [alive]
        assert left != alive
    assert not list(tmp_path.iterdir())


def test_the_digest_tells_results_apart() -> None:
    base = settings_digest(settings_of(), "content")
    others = [settings_of(factor=3), settings_of(seed=1), settings_of(detail=0.5), settings_of(noise=1)]
    others.append(settings_of(modality="MR"))
    assert len({base, settings_digest(settings_of(), "other"), *(settings_digest(s, "content") for s in others)}) == 7
    # Where it is computed and under which path the bundle lies change no result.
    assert settings_digest(requested_settings({}, find_bundle("ldm_sr"), "cuda"), "content") == base
    assert settings_digest(requested_settings({}, "srgan_sr", None), "content") != base


def test_a_request_waits_its_turn_or_is_told_to_come_again() -> None:
    turn, inside, leave = InferenceTurn(0.05), threading.Event(), threading.Event()

    def hold() -> None:
        with turn.taken():
            inside.set()
            leave.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    inside.wait()
    with pytest.raises(LdmsrError, match=r"0\.05 s") as raised, turn.taken():
        pytest.fail("two at once")
    assert raised.value.reason is ReasonCode.SERVER_BUSY
    leave.set()
    holder.join()
    with turn.taken():
        pass


def test_an_empty_label_map_lies_on_the_grid(tmp_path: Path) -> None:
    affine = np.array([[0.0, -2.0, 0.0, 5.0], [-0.7, 0.0, 0.0, 9.0], [0.0, 0.0, 3.0, -4.0], [0.0, 0.0, 0.0, 1.0]])
    for name in ("labels.nii.gz", "labels.nrrd"):
        write_empty_labels(VolumeGeometry((4, 5, 6), affine), tmp_path / name)
        labels = SimpleITK.ReadImage(str(tmp_path / name))
        assert labels.GetPixelID() == SimpleITK.sitkUInt8
        assert labels.GetSize() == (4, 5, 6)
        for index in ((0, 0, 0), (3, 0, 0), (0, 4, 0), (0, 0, 5)):
            ras = (affine @ [*index, 1])[:3] * (-1, -1, 1)  # ITK speaks LPS
            np.testing.assert_allclose(labels.TransformIndexToPhysicalPoint(index), ras, atol=1e-5)
    with pytest.raises(OutputError):
        write_empty_labels(VolumeGeometry((4, 5, 6), affine), tmp_path / "no" / "labels.nii.gz")


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_a_copy_in_another_format_keeps_values_type_and_place(tmp_path: Path, dtype: type) -> None:
    affine = np.diag([-0.5, 1.5, 2.0, 1.0])
    affine[:3, 3] = 3, -8, 2
    voxels = np.arange(24).reshape(2, 3, 4).astype(dtype) * 7
    nibabel.save(nibabel.Nifti1Image(voxels, affine), tmp_path / "image.nii.gz")
    copy_volume_file(tmp_path / "image.nii.gz", tmp_path / "image.nrrd")
    found = SimpleITK.ReadImage(str(tmp_path / "image.nrrd"))
    assert SimpleITK.GetArrayFromImage(found).dtype == dtype
    assert (voxels == SimpleITK.GetArrayFromImage(found).T).all()
    np.testing.assert_allclose(
        found.TransformIndexToPhysicalPoint((1, 2, 3)), (affine @ [1, 2, 3, 1])[:3] * (-1, -1, 1)
    )
    copy_volume_file(tmp_path / "image.nii.gz", tmp_path / "copy.nii.gz")
    assert (tmp_path / "copy.nii.gz").read_bytes() == (tmp_path / "image.nii.gz").read_bytes()
    with pytest.raises(OutputError, match="cannot be copied"):
        copy_volume_file(tmp_path / "none.nii.gz", tmp_path / "none.nrrd")


def test_what_a_client_wants_back(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.ones((2, 2, 2), np.float32), np.eye(4)), tmp_path / "image.nii.gz")
    grid = {"shape": [3, 4, 5], "affine": np.eye(4).tolist()}

    def asked() -> Path:
        return tmp_path / "image.nii.gz"

    def never() -> Path:
        raise AssertionError

    assert ClientFile.from_request({"result_write_to_file": False}).written(never, grid) is None
    labels = ClientFile.from_request({"result_dtype": "uint8", "result_extension": ".nrrd"}).written(never, grid)
    image = ClientFile.from_request({"result_dtype": "float32"}).written(asked, grid)
    assert labels is not None
    assert image is not None
    assert SimpleITK.ReadImage(labels).GetSize() == (3, 4, 5)
    assert SimpleITK.ReadImage(image).GetSize() == (2, 2, 2)
    for path in (labels, image):
        Path(path).unlink()
    with pytest.raises(SettingsError, match="result_extension"):
        ClientFile.from_request({"result_extension": ".mat"})


def test_the_missing_module_is_stood_in_for_only_where_it_is_asked_for() -> None:
    code = (
        "import sys; from monai_ldmsr.label import stand_ins; stand_ins.install(); stand_ins.install();"
        "assert 'pydicom' not in sys.modules and 'torch' not in sys.modules;"
        "from pydicom._storage_sopclass_uids import SegmentationStorage;"
        "assert SegmentationStorage == '1.2.840.10008.5.1.4.1.1.66.4';"
        "import pydicom.uid; assert pydicom.uid.SegmentationStorage == SegmentationStorage"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_monai_label_the_command_says_how_to_get_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "monailabel", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "studies").mkdir()
    finders = list(sys.meta_path)
    assert main(["label", "--studies", str(tmp_path / "studies")]) == 1
    assert "make label" in capsys.readouterr().err
    sys.meta_path[:] = finders
    assert main(["label", "--studies", str(tmp_path / "none")]) == 1
    assert "--studies" in capsys.readouterr().err
    assert main(["label", "--studies", str(tmp_path / "studies"), "--bundle", "none"]) == 1
    for wrong in ("http://", "http://user:word@127.0.0.1/dicom-web", "https://127.0.0.1:1/x --ca-file none.pem"):
        assert main(["label", "--studies", *wrong.split()]) == 1
        assert "Traceback" not in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for port in (taken.getsockname()[1], 0, 65536):
            assert main(["label", "--studies", str(tmp_path / "studies"), "--port", str(port)]) == 1
            assert "port" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main(["label", "--studies", str(tmp_path / "studies"), "--app-dir", str(tmp_path / "file" / "app")]) == 7
    assert str(tmp_path) not in capsys.readouterr().err


def test_the_apps_folder_gives_monai_label_one_app(monkeypatch: pytest.MonkeyPatch) -> None:
    """MONAI Label takes the class of ``main.py`` whose direct base is called ``MONAILabelApp``."""
    app = ModuleType("monai_ldmsr.label.app")
    base = type("MONAILabelApp", (), {})
    app.SuperResolutionApp = type("SuperResolutionApp", (base,), {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "monai_ldmsr.label.app", app)
    loaded = importlib.import_module("monai_ldmsr.label.app_folder.main")
    monkeypatch.delitem(sys.modules, "monai_ldmsr.label.app_folder.main")
    classes = [one for one in vars(loaded).values() if isinstance(one, type)]
    assert [one.__bases__[0].__name__ for one in classes] == ["MONAILabelApp"]


def test_an_inference_raises_what_it_met(tmp_path: Path, bundle: Path) -> None:
    (tmp_path / "cut.nii").write_bytes(b"no volume")
    with pytest.raises(Exception) as caught:  # noqa: PT011 (MONAI's transforms wrap it in an error of their own)
        infer(tmp_path / "cut.nii", "cut", tmp_path / "out", WorkSettings(device="cpu", bundle=bundle))
    assert Outcome.of_error(caught.value).reason == "UNREADABLE_FILE"
    image = nibabel.Nifti1Image(np.arange(60, dtype=np.int16).reshape(5, 4, 3), np.eye(4))
    nibabel.save(image, tmp_path / "whole.nii")
    inferred = infer(tmp_path / "whole.nii", "whole", tmp_path / "out", WorkSettings(device="cpu", bundle=bundle))
    assert inferred.report == json.loads((inferred.folder / "report.json").read_text())
