"""``ldmsr info``: versions, device, bundles and weights."""

from __future__ import annotations

import argparse
import platform
from importlib.metadata import version

from monai_ldmsr._version import __version__
from monai_ldmsr.cli.arguments import Commands
from monai_ldmsr.report import RESEARCH_NOTICE
from monai_ldmsr.storage import file_sha256

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add ``info`` to the command's parser."""
    info = commands.add_parser("info", help="print versions, device, bundles and weights")
    info.set_defaults(command=_info)


def _info(arguments: argparse.Namespace) -> int:
    import torch

    from monai_ldmsr.bundle_folder import available_bundles

    del arguments
    print(f"monai_ldmsr {__version__}, Python {platform.python_version()} on {platform.system()} {platform.machine()}")
    names = ("torch", "monai", "pydicom", "highdicom", "nibabel", "SimpleITK", "numpy")
    print(", ".join(f"{name} {version(name)}" for name in names))
    devices = [f"cuda:{n} ({torch.cuda.get_device_name(n)})" for n in range(torch.cuda.device_count())]
    print(f"devices: {', '.join(['cpu', *devices])} ({torch.get_num_threads()} CPU threads)")
    for info in available_bundles():
        weights = info.folder / "models" / "model.pt"
        state = "missing" if not weights.is_file() else "altered"
        if weights.is_file() and file_sha256(weights) == info.weights_sha256:
            state = f"{weights.stat().st_size / 1e6:.1f} MB, verified"
        print(f"bundle {info.name} {info.version}: weights {info.weights_sha256[:12]} ({state})")
        print(f"  {info.description}")
        print(f"  {info.folder}")
    print(RESEARCH_NOTICE)
    return 0
