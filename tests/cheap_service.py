"""``ldmsr serve`` as a process to be killed: each call of the network held while a file exists.

python tests/cheap_service.py HOLD ARGUMENTS...
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from odd_run import NearestNeighbour

from monai_ldmsr import batch
from monai_ldmsr.batch import Workers
from monai_ldmsr.cli import main


def serve(hold: Path, arguments: list[str]) -> int:
    """Run the command with work done in a thread of this process."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        repeat = NearestNeighbour.forward

        def held(self: NearestNeighbour, *call: object) -> object:
            while hold.exists():
                time.sleep(0.02)
            return repeat(self, *call)  # type: ignore[arg-type]

        monkeypatch.setattr(NearestNeighbour, "forward", held)
        pool = ThreadPoolExecutor(1)
        monkeypatch.setattr(batch, "open_local", lambda lock: Workers(pool, 1, lambda: pool.shutdown(wait=False)))
        return main(arguments)


if __name__ == "__main__":
    sys.exit(serve(Path(sys.argv[1]), sys.argv[2:]))
