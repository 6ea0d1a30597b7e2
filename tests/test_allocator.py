"""Freed memory that is kept while networks run, and how much there is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from monai_ldmsr import allocator
from monai_ldmsr.allocator import reused_memory, use_huge_pages
from monai_ldmsr.io.source_size import SourceSize
from monai_ldmsr.needs import MemoryBudget, available_bytes, memory_bytes


def resident_mb() -> int:
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmRSS"].split()[0]) // 1024


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc alone has these calls")
def test_memory_is_kept_within_and_given_back_after() -> None:
    before = resident_mb()
    with reused_memory():
        with reused_memory():
            blocks = [torch.ones(10, 2**20) for _ in range(10)]
        del blocks
        assert resident_mb() - before > 300, "it was given back while somebody uses it"
    assert resident_mb() - before < 100, "it is kept for ever"
    assert allocator._users == 0


def test_errors_leave_it_as_it_was() -> None:
    with pytest.raises(ValueError, match="inside"), reused_memory():
        raise ValueError("inside")
    assert allocator._users == 0


def test_a_choice_of_the_user_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    use_huge_pages()
    assert allocator.os.environ["THP_MEM_ALLOC_ENABLE"] == "0"
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "3")
    with reused_memory():
        assert allocator._users == 0


def test_what_a_container_allows_counts(tmp_path: Path) -> None:
    def available() -> int | None:
        return available_bytes(tmp_path / "meminfo", tmp_path)

    budget, size = MemoryBudget(available=available), SourceSize((100, 100, 20), 2)
    assert available() is None
    assert not budget.needs_files(SourceSize((4000, 4000, 4000), 2), 4)
    (tmp_path / "meminfo").write_text("MemTotal:  9000000 kB\nMemAvailable:  8000000 kB\n")
    assert available() == 8_000_000 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("500\n")
    (tmp_path / "memory.stat").write_text("anon 300\nfile 200\n")
    assert available() == 8_000_000 * 1024
    (tmp_path / "memory.max").write_text(f"{memory_bytes(size, 2)}\n")
    assert available() == memory_bytes(size, 2) - 300
    assert budget.needs_files(size, 2)
    assert not budget.has_plenty(size, 2)
    (tmp_path / "memory.max").write_text(f"{4 * memory_bytes(size, 2)}\n")
    assert budget.has_plenty(size, 2)
    assert not MemoryBudget(10**12, available=available).has_plenty(size, 2), "a limit was given"
