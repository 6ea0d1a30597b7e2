"""The two formats: ONNX and torch.export, written, read back and compared."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from monai_ldmsr.errors import SettingsError
from monai_ldmsr.export.parts import NetworkPart

__all__ = ["EXTENSIONS", "OPSET", "check_installed", "exported", "reader", "write"]

#: Extension of each format's files.
EXTENSIONS = {"onnx": ".onnx", "torch": ".pt2"}

#: Version of ONNX's operators.
OPSET = 20

#: Batch, rows and columns of the example that is followed; no side may be 1, which would stay so.
_EXAMPLE = (2, 21, 26)

#: Whose remarks about graphs are none of the user's concern.
_TALKATIVE = ("torch", "onnxscript", "onnx_ir")


def check_installed() -> None:
    """Refuse to write ONNX where its packages are missing.

    Raises:
        SettingsError: one is.
    """
    try:
        with quiet():
            for name in ("onnx", "onnxscript", "onnxruntime"):
                import_module(name)
    except ImportError as error:
        raise SettingsError(
            f"ONNX needs the package {error.name}: pip install 'monai_ldmsr[onnx]'. Without it, --format torch works."
        ) from None


def exported(part: NetworkPart) -> ExportedProgram:
    """The graph of a part, for any batch and slice size."""
    any_side = [
        {axis: Dim.AUTO for axis, side in enumerate(spec.shape) if isinstance(side, str)}
        for spec in part.inputs.values()
    ]
    with quiet(), torch.no_grad():
        return torch.export.export(part.module, part.example(*_EXAMPLE), dynamic_shapes=tuple(any_side), strict=False)


def write(kind: str, program: ExportedProgram, part: NetworkPart, path: Path, about: Mapping[str, str]) -> None:
    """Write a graph.

    Args:
        kind: one of :data:`EXTENSIONS`.
        program: what :func:`exported` made of the part.
        part: gives names to tensors and sides.
        path: the file.
        about: what the file itself says of the bundle.
    """
    with quiet(), torch.no_grad():
        if kind == "torch":
            torch.export.save(program, path, extra_files=dict(about))
        else:
            _write_onnx(program, part, path, about)


def _write_onnx(program: ExportedProgram, part: NetworkPart, path: Path, about: Mapping[str, str]) -> None:
    converted: Any = torch.onnx.export(
        program, dynamo=True, verbose=False, opset_version=OPSET, output_names=list(part.outputs)
    )
    ir = import_module("onnx_ir")
    graph = converted.model.graph
    specs = [*part.inputs.values(), *part.outputs.values()]
    for value, spec in zip([*graph.inputs, *graph.outputs], specs, strict=True):
        value.shape = ir.Shape(spec.shape)
    converted.model.metadata_props.update(about)
    converted.save(path, external_data=False)


def reader(kind: str, path: Path) -> Callable[..., list[Tensor]]:
    """What runs a file that was written, with the inputs of its part."""
    if kind == "torch":
        with quiet():
            program = torch.export.load(path).module()

        def run_torch(*inputs: Tensor) -> list[Tensor]:
            with torch.no_grad():
                found = program(*inputs)
            return [found] if isinstance(found, Tensor) else list(found)

        return run_torch

    runtime = import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]

    def run_onnx(*inputs: Tensor) -> list[Tensor]:
        given = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
        return [torch.from_numpy(value) for value in session.run(None, given)]

    return run_onnx


@contextmanager
def quiet() -> Iterator[None]:
    """Have the exporters neither print, log nor warn."""
    loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict if name.startswith(_TALKATIVE)]
    levels = [(one, one.level) for one in (*loggers, *map(logging.getLogger, _TALKATIVE))]
    try:
        for one, _ in levels:
            one.setLevel(logging.CRITICAL)
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for one, level in levels:
            one.setLevel(level)
