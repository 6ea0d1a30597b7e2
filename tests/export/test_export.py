"""``ldmsr export``: files that give what the networks give, at other sizes than the example's."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from generator_fixtures import make_resolver
from places import BUNDLES
from torch import Tensor

from monai_ldmsr.bundle_folder import bundle_info
from monai_ldmsr.cli import main
from monai_ldmsr.degradation import Factor
from monai_ldmsr.errors import OutputError, SettingsError, WeightsError
from monai_ldmsr.export import DESCRIPTION_FILE, PARTS, export_networks, write_networks
from monai_ldmsr.export.parts import network_parts
from monai_ldmsr.image_output import BundleModel
from monai_ldmsr.networks import SliceNetwork, SliceNoise, SRResNetGenerator, SuperResolver
from monai_ldmsr.storage import file_sha256
from monai_ldmsr.workflow import load_super_resolver

onnxruntime = pytest.importorskip("onnxruntime", reason="pip install monai_ldmsr[onnx]")

MODEL = BundleModel("small", "0.1", "ab" * 32)
TOLERANCE = 1e-4
#: Batch, rows and columns; all others than the example's and those that the export itself compares.
SIZES = [(1, 11, 17), (3, 27, 9), (1, 1, 1), (1, 40, 33)]


def onnx_runner(path: Path) -> Callable[..., list[Tensor]]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    return lambda *given: [
        torch.from_numpy(one) for one in session.run(None, dict(zip(names, (x.numpy() for x in given), strict=True)))
    ]


def torch_runner(path: Path) -> Callable[..., list[Tensor]]:
    module = torch.export.load(path).module()

    def run(*given: Tensor) -> list[Tensor]:
        with torch.no_grad():
            found = module(*given)
        return [found] if isinstance(found, Tensor) else list(found)

    return run


def runners(folder: Path, part: str) -> list[Callable[..., list[Tensor]]]:
    """Of each format that the folder says it has."""
    files = json.loads((folder / DESCRIPTION_FILE).read_text())["parts"][part]["files"]
    return [{"onnx": onnx_runner, "torch": torch_runner}[name](folder / one["file"]) for name, one in files.items()]


def check_whole(folder: Path, resolver: SuperResolver, sizes: Sequence[tuple[int, int, int]]) -> None:
    """The whole network with a dial, against ``estimates`` with the seed, noise and places that are given."""
    description = json.loads((folder / DESCRIPTION_FILE).read_text())
    drawn = SliceNoise(**description["noise_fields"])
    for run in runners(folder, "network"):
        for count, height, width in sizes:
            slices = 0.3 * torch.randn(count, 1, height, width, generator=torch.Generator().manual_seed(count))
            places = [4.5 * n for n in range(count)]
            fields = drawn.draw((height, width), places)
            for detail in (0.0, 0.5):
                with torch.no_grad():
                    ((result, error),) = resolver.estimates(slices, "MR", 3.0, [detail], places)
                found = run(slices, torch.full((count,), 3.0), *fields, torch.tensor(detail))
                torch.testing.assert_close(found[0], result, atol=TOLERANCE, rtol=0)
                torch.testing.assert_close(found[1], error, atol=TOLERANCE, rtol=0)


def test_a_decoder_is_exported_and_described(tmp_path: Path, heard: Callable[[], str]) -> None:
    resolver, folder = make_resolver(), tmp_path / "out"
    done = write_networks(resolver, MODEL, folder, parts=["sample_decoder"])
    assert not heard().strip()
    assert sorted(path.name for path in folder.iterdir()) == [
        "export.json",
        "sample_decoder.onnx",
        "sample_decoder.pt2",
    ]
    description = json.loads((folder / DESCRIPTION_FILE).read_text())
    assert (description["bundle"], description["bundle_version"]) == ("small", "0.1")
    assert description["weights_sha256"] == MODEL.weights_sha256
    assert "not for" in description["notice"]
    assert "model range" in description["intensity"]
    assert (description["factors"], description["evaluations_per_slice"]) == ([2, 2], 2)
    part = description["parts"]["sample_decoder"]
    assert part["inputs"]["noise"]["shape"] == ["batch", 1, "height", "width"]
    assert part["files"]["onnx"]["opset"] == 20
    for one in part["files"].values():
        assert one["sha256"] == file_sha256(folder / one["file"])
        assert one["largest_difference"] == done.differences[one["file"]] <= TOLERANCE
    session = onnxruntime.InferenceSession(str(folder / "sample_decoder.onnx"))
    assert {one.name: list(map(str, one.shape)) for one in session.get_inputs()} == {
        name: list(map(str, spec["shape"])) for name, spec in part["inputs"].items()
    }
    about = session.get_modelmeta().custom_metadata_map
    assert (about["weights_sha256"], about["bundle"]) == (MODEL.weights_sha256, "small 0.1")
    decoder = resolver.generator.sample_decoder
    assert len(runners(folder, "sample_decoder")) == 2
    for run in runners(folder, "sample_decoder"):
        for count, height, width in ((1, 10, 34), (3, 18, 6)):
            given = [torch.randn(count, 1, height, width) for _ in range(2)]
            given += [torch.rand(count, 6), torch.randn(count, 1, height, width)]
            with torch.no_grad():
                torch.testing.assert_close(run(*given)[0], decoder(*given), atol=TOLERANCE, rtol=0)


@pytest.mark.slow
def test_the_whole_of_a_plain_network_is_exported(tmp_path: Path) -> None:
    network = SRResNetGenerator(factor=3, features=8, num_blocks=1).eval()
    torch.nn.init.normal_(network.tail[-1].weight, std=0.1)
    write_networks(network, MODEL, tmp_path / "out", formats=["torch"])
    run = torch_runner(tmp_path / "out" / "network.pt2")
    for size in SIZES:
        slices = torch.randn(size[0], 1, *size[1:])
        with torch.no_grad():
            torch.testing.assert_close(run(slices)[0], network(slices), atol=TOLERANCE, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("factor", [2, (2.5, 1.0)])
def test_the_whole_of_a_small_network_is_exported(factor: Factor, tmp_path: Path) -> None:
    resolver = make_resolver(factor=factor, flat_detail=0.3)
    write_networks(resolver, MODEL, tmp_path / "out", parts=["network"])
    assert len(runners(tmp_path / "out", "network")) == 2
    check_whole(tmp_path / "out", resolver, SIZES)


@pytest.mark.slow
def test_the_mean_alone_takes_no_noise_fields(tmp_path: Path) -> None:
    resolver = make_resolver(factor=3)
    write_networks(resolver, MODEL, tmp_path / "out", parts=["network"], detail=0.0, formats=["onnx"])
    run = onnx_runner(tmp_path / "out" / "network.onnx")
    for count, height, width in SIZES:
        slices = torch.randn(count, 1, height, width)
        with torch.no_grad():
            ((result, error),) = resolver.estimates(slices, None, 3.0, [0.0])
        found = run(slices, torch.full((count,), 3.0))
        torch.testing.assert_close(found[0], result, atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(found[1], error, atol=TOLERANCE, rtol=0)


@pytest.mark.slow
def test_the_bundle_is_exported_by_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "out"
    # As torch.export files small networks are written, which takes less time.
    assert main(["export", str(folder), "--factor", "3", "--format", "onnx"]) == 0
    said = capfd.readouterr()
    assert "Warning" not in said.err + said.out
    assert "torch.onnx" not in said.err + said.out
    description = json.loads((folder / DESCRIPTION_FILE).read_text())
    assert tuple(description["parts"]) == PARTS
    assert all(list(part["files"]) == ["onnx"] for part in description["parts"].values())
    assert description["weights_sha256"] == bundle_info().weights_sha256
    resolver, _ = load_super_resolver(factor=3)
    assert isinstance(resolver, SuperResolver)
    check_whole(folder, resolver, SIZES[:2])
    check_parts(folder, resolver)


def check_parts(folder: Path, resolver: SuperResolver) -> None:
    generator = resolver.generator
    numbers = torch.tensor([[0.8, 0.8, 1.0, 0.0, 0.0, 0.4]])

    def drawn(count: int, channels: int, rows: int, columns: int) -> Tensor:
        return 0.3 * torch.randn(count, channels, rows, columns)

    for count, rows, columns in ((1, 3, 5), (3, 2, 4)):
        many, sides = numbers.expand(count, -1).contiguous(), (8 * rows, 8 * columns)
        times = torch.full((count,), 500.0)
        image, other = drawn(count, 1, *sides), drawn(count, 1, *sides)
        latent, state = drawn(count, 16, *sides), drawn(count, 16, *sides)
        given: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = {
            "encoder": (generator.codec.encode, (image,)),
            "decoder": (generator.codec.decode, (latent,)),
            "denoiser": (generator.denoiser, (state, latent, times, many)),
            "mean_decoder": (generator.mean_decoder, (image, other, many)),
            "sample_decoder": (generator.sample_decoder, (image, other, many, torch.randn_like(image))),
        }
        for name, (function, inputs) in given.items():
            with torch.no_grad():
                expected = function(*inputs)
            for run in runners(folder, name):
                largest = max(1.0, float(expected.abs().max()))
                torch.testing.assert_close(run(*inputs)[0], expected, atol=TOLERANCE * largest, rtol=0)


@pytest.mark.slow
def test_the_baseline_is_exported_by_the_command(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    assert main(["export", str(folder), "--bundle", "srgan_sr", "--factor", "4"]) == 0
    network, _ = load_super_resolver("srgan_sr", factor=4)
    for run in runners(folder, "network"):
        for count, height, width in SIZES:
            slices = 0.3 * torch.randn(count, 1, height, width)
            with torch.no_grad():
                torch.testing.assert_close(run(slices)[0], network(slices), atol=TOLERANCE, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ldm_sr", "srgan_sr"])
def test_monais_own_command_writes_a_network_for_any_size(name: str, tmp_path: Path) -> None:
    """As docs/export.md has it; slices below 8 pixels have no estimate of their noise."""
    path, settings = tmp_path / "network.onnx", {"ldm_sr": ["--detail", "0"], "srgan_sr": []}[name]
    axes = {0: "batch", 2: "height", 3: "width"}
    command = [sys.executable, "-m", "monai.bundle", "onnx_export", "--net_id", "network_def"]
    command += ["--config_file", "configs/inference.yaml", "--meta_file", "configs/metadata.json"]
    command += ["--ckpt_file", "models/model.pt", "--filepath", str(path), "--factor", "2", *settings]
    command += ["--input_shape", "[2,1,40,44]", "--converter_kwargs"]
    command += [str({"input_names": ["slices"], "dynamic_axes": {"slices": axes}})]
    done = subprocess.run(command, cwd=BUNDLES / name, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    network, _ = load_super_resolver(name, factor=2, **({"detail": 0.0} if settings else {}))
    run = onnx_runner(path)
    for count, height, width in ((1, 13, 30), (3, 37, 25)):
        slices = 0.3 * torch.randn(count, 1, height, width)
        with torch.no_grad():
            torch.testing.assert_close(run(slices)[0], network(slices), atol=TOLERANCE, rtol=0)


def write_small(folder: Path, network: SliceNetwork | None = None, **given: object) -> None:
    chosen = {"parts": ["mean_decoder"], "formats": ["torch"], **given}
    write_networks(network or make_resolver(), MODEL, folder, **chosen)  # type: ignore[arg-type]


def test_what_is_there_is_replaced_on_request_alone(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    for name in (DESCRIPTION_FILE, "encoder.pt2"):
        (folder / name).touch()
    with pytest.raises(OutputError, match="--overwrite"):
        write_small(folder)
    write_small(folder, overwrite=True)
    assert sorted(path.name for path in folder.iterdir()) == ["export.json", "mean_decoder.pt2"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "paper.txt").touch()
    with pytest.raises(OutputError, match="not written by an export"):
        write_small(tmp_path / "mine", overwrite=True)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["paper.txt"]


def test_sides_of_a_latent_are_not_called_those_of_its_image() -> None:
    parts = network_parts(make_resolver())
    for name in ("encoder", "decoder", "denoiser"):
        for spec in (*parts[name].inputs.values(), *parts[name].outputs.values()):
            if len(spec.shape) == 4:
                sides = ("height", "width") if spec.shape[1] == 1 else ("latent_height", "latent_width")
                assert spec.shape[2:] == sides, (name, spec)
    assert "divided by 4" in parts["encoder"].outputs["latent"].meaning
    image, latent = parts["encoder"].example(1, 3, 5)[0], parts["decoder"].example(1, 3, 5)[0]
    assert (tuple(image.shape), tuple(latent.shape)) == ((1, 1, 12, 20), (1, 16, 3, 5))


def test_noise_fields_are_described_where_there_are_any(tmp_path: Path) -> None:
    for detail, has in ((0.0, False), (0.5, True)):
        write_small(tmp_path / "out", detail=detail, overwrite=True)
        assert ("noise_fields" in json.loads((tmp_path / "out" / DESCRIPTION_FILE).read_text())) is has


def test_an_interrupt_leaves_nothing_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("monai_ldmsr.cli.views.ShareView.update", interrupted)
    assert main(["export", str(tmp_path / "out")]) == 130
    assert capsys.readouterr().err.endswith("ldmsr: interrupted; nothing was written.\n")
    assert list(tmp_path.iterdir()) == []


def test_a_network_whose_file_differs_is_not_written(tmp_path: Path) -> None:
    resolver = make_resolver()
    resolver.generator.mean_decoder.last.weight.data.fill_(float("nan"))
    with pytest.raises(WeightsError, match="differs from the network by nan"):
        write_small(tmp_path / "out", resolver)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"parts": ["codec"]}, "no part 'codec'"),
        ({"formats": ["trt"]}, "no format 'trt'"),
        ({"formats": []}, "No format"),
        ({"detail": 2.0}, "detail is"),
        ({"factor": 1}, "more than 1"),
    ],
)
def test_what_is_wrong_is_named_before_anything_is_written(
    given: dict[str, object], words: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=words):
        write_small(tmp_path / "out", **given)
    with pytest.raises(SettingsError, match=words):
        export_networks(tmp_path / "out", **given)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--factor x", "factor"),
        ("--factor 2,2,3", "factor is 2x2x3"),
        ("--factor 9", "factor is 9"),
        ("--bundle srgan_sr --factor 2.5", "no other factors"),
        ("--bundle srgan_sr --parts denoiser", "has no part denoiser"),
        ("--bundle nothing", "was not found"),
    ],
)
def test_the_command_says_what_is_wrong(
    options: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(tmp_path / "out"), "--format", "torch", *options.split()]) == 1
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_another_kind_of_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="SuperResolver and SRResNetGenerator"):
        write_small(tmp_path / "out", torch.nn.Identity())  # type: ignore[arg-type]


def test_without_onnx_the_message_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert main(["export", str(tmp_path / "out")]) == 1
    assert "pip install 'monai_ldmsr[onnx]'" in capsys.readouterr().err


def test_the_command_offers_the_parts_that_there_are() -> None:
    from monai_ldmsr.cli import command_parser

    given = command_parser().parse_args(["export", "o", "--parts", *PARTS])
    assert given.parts == list(PARTS)
    with pytest.raises(SystemExit):
        command_parser().parse_args(["export", "o", "--parts", "codec"])
