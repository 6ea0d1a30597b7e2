"""Seconds a slice of ours, SRGAN, bicubic, plain diffusion and MONAI's tutorial, on the same slices in one run.

    python -m benchmarks.speed --sizes 256 512 1024 --repeats 5 --output docs/speed/networks.json

Sizes are those of the result; the source's sides are a quarter. Each row is called once while its floating-point
operations are counted, which is its warm-up, and then ``--repeats`` times, fewer where that would take longer than the
limit of time; medians are compared. What needs more time or memory than the limits is listed with that reason. The rate
of a row is compared with that of one 3 x 3 convolution, measured before and after the rows of each size. JSON is
written after each row. ``--device cuda`` waits for the GPU, and gives its memory.
"""

from __future__ import annotations

import argparse
import resource
import signal
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import convolution_gflop_per_s, facts, peak_mb, reset_peak, seconds_of, spread_of, write_json
from benchmarks.speed_rows import DDPM_STEPS, FACTOR, PUBLISHED_STEPS, Row, made_slice, rows
from monai_ldmsr.allocator import reused_memory, use_huge_pages

__all__ = ["compared", "extrapolated", "limited", "main", "measured"]

#: A first call that took less than this many seconds is followed by more warm-up.
_QUICK_S = 2.0

#: Share of the memory that is free at the start which a row may take.
_MEMORY_SHARE = 0.75


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all sizes, print and write."""
    given = _arguments(arguments)
    use_huge_pages()
    if given.threads:
        torch.set_num_threads(given.threads)
    limit_mb = given.row_mb or _MEMORY_SHARE * _free_mb()
    found: dict[str, Any] = {
        "what": "seconds a slice of networks and references",
        "machine": facts(given.device),
        "factor": FACTOR,
        "limits": {"seconds_a_row": given.row_s, "mb_a_row": limit_mb},
        "sizes": [],
    }
    for size in given.sizes:
        found["sizes"].append(here := {"size": size, "convolution_gflop_per_s": None, "rows": []})
        rates = [convolution_gflop_per_s(given.device)]
        image = made_slice(size // FACTOR).to(given.device)
        for row in rows():
            if given.only and row.key not in given.only:
                continue
            with reused_memory():  # as whole runs have it, for all ways alike
                one = measured(row, image, given.device, given.repeats, given.row_s, limit_mb)
            here["rows"].append(one)
            print(_line(size, one), flush=True)
            here["convolution_gflop_per_s"] = statistics.median(rates)
            write_json(found, given.output)
        rates.append(convolution_gflop_per_s(given.device))
        here["convolution_gflop_per_s"] = statistics.median(rates)
        here["convolution_rates"] = rates
        here["rows"] = compared(extrapolated(here["rows"]), here["convolution_gflop_per_s"])
        write_json(found, given.output)
    print(f"written: {given.output}")


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1024], help="sides of the result in pixels")
    parser.add_argument("--threads", type=int, help="threads that compute (default: torch's own)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=[row.key for row in rows()], help="rows (default: all)")
    parser.add_argument("--row-s", type=float, default=900.0, help="limit of seconds for each row (default: 900)")
    parser.add_argument("--row-mb", type=float, help="limit of memory for each row (default: three quarters of free)")
    parser.add_argument("--output", type=Path, default=Path("docs/speed/networks.json"))
    given = parser.parse_args(arguments)
    if any(size % (8 * FACTOR) for size in given.sizes):
        parser.error(f"sizes must be multiples of {8 * FACTOR}")
    return given


def measured(row: Row, image: Tensor, device: str, repeats: int, limit_s: float, limit_mb: float) -> dict[str, Any]:
    """What a row takes for a slice, or why that is not known.

    Args:
        row: what to call.
        image: (1, 1, h, w) slice in model range.
        device: device of both.
        repeats: calls that are timed, at most.
        limit_s: seconds for all of them.
        limit_mb: memory in MiB that a row may take beside what is held.
    """
    one: dict[str, Any] = {"key": row.key, "name": row.name, "is_whole": row.is_whole, "note": row.note}
    reset_peak(device)
    try:
        with limited(limit_s, limit_mb if device == "cpu" else None), torch.no_grad():
            return one | _timed(row, image, device, repeats, limit_s)
    except TimeoutError:
        reason = f"one call takes more than {limit_s:g} s"
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _is_out_of_memory(error):
            raise
        allowed = f"{limit_mb / 1024:.1f} GB" if device == "cpu" else "this GPU has"
        reason = f"needs more memory than {allowed}"
    return one | {"not_measured": reason}


def _timed(row: Row, image: Tensor, device: str, repeats: int, limit_s: float) -> dict[str, Any]:
    call, weights = row.call(device)
    counter = FlopCounterMode(display=False)
    begin = time.perf_counter()
    with counter:
        first = seconds_of(lambda: call(image), device)
    for _ in range(2 if first < min(_QUICK_S, limit_s / 20) else 0):
        call(image)
    times: list[float] = []
    with suppress(TimeoutError):  # a call that takes longer than those before it
        while len(times) < repeats and time.perf_counter() - begin + max(times, default=first) < limit_s:
            times.append(seconds_of(lambda: call(image), device))
    times = times or [first]  # there is no time for another: the one whose operations were counted
    gflop = counter.get_total_flops() / 1e9
    return {"seconds": spread_of(times), "gflop": gflop, "parameters": weights, "peak_mb": peak_mb(device)}


@contextmanager
def limited(seconds: float, mb: float | None) -> Iterator[None]:
    """End what takes longer with a ``TimeoutError``, and what allocates more with torch's error or ``MemoryError``.

    Time is looked at between two operations of torch. Memory is address space beyond what the process has.
    """

    def end(*_: Any) -> None:
        raise TimeoutError

    earlier = signal.signal(signal.SIGALRM, end)
    space = resource.getrlimit(resource.RLIMIT_AS)
    if mb is not None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + int(mb * 2**20)
        resource.setrlimit(resource.RLIMIT_AS, (most, space[1]))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)
        resource.setrlimit(resource.RLIMIT_AS, space)


def _is_out_of_memory(error: RuntimeError) -> bool:
    # oneDNN only says that it could not do it.
    said = str(error).lower()
    return "memory" in said or "could not create" in said or "could not execute" in said


def _free_mb() -> float:
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) / 1024


def extrapolated(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, and after each what follows from it without being measured."""
    known = {one["key"]: one for one in found}
    added: dict[str, dict[str, Any]] = {}
    if "srgan" in known:
        note = "the same network as SRGAN's with other weights (`srresnet.pt`): one timing for both"
        added["srgan"] = known["srgan"] | {"key": "srresnet", "name": "SRResNet (`srgan_sr`)", "note": note}
    if {"codec", "ddpm50"} <= known.keys():
        codec, some = known["codec"], known["ddpm50"]
        step = {key: (value - _number(codec, key)) / DDPM_STEPS for key, value in _numbers(some).items()}
        name = f"plain DDPM from pure noise, {PUBLISHED_STEPS} steps"
        added["ddpm50"] = _steps("ddpm1000", name, step, codec, some)
    if {"monai_step", "monai_decode"} <= known.keys():
        name = f"MONAI tutorial, {PUBLISHED_STEPS} steps and decode"
        step, decode = known["monai_step"], known["monai_decode"]
        added["monai_decode"] = _steps("monai1000", name, _numbers(step), decode, step)
    return [row for one in found for row in (one, added.get(one["key"])) if row is not None]


def _steps(key: str, name: str, step: dict[str, float], rest: dict[str, Any], also: dict[str, Any]) -> dict[str, Any]:
    row = {"key": key, "name": name, "is_whole": True, "is_extrapolated": True}
    row["note"] = "extrapolated from the time of a step; not measured"
    why = next((one["not_measured"] for one in (rest, also) if "not_measured" in one), None)
    if why is not None:
        return row | {"not_measured": f"a part of it: {why}"}
    whole = {name: _number(rest, name) + PUBLISHED_STEPS * value for name, value in step.items()}
    parameters = also["parameters"] if key == "ddpm1000" else also["parameters"] + rest["parameters"]
    peak = max(rest["peak_mb"], also["peak_mb"])
    return row | {
        "seconds": {"median": whole["seconds"]},
        "gflop": whole["gflop"],
        "parameters": parameters,
        "peak_mb": peak,
    }


def _number(row: dict[str, Any], key: str) -> float:
    return _numbers(row).get(key, 0.0)


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    return {} if "not_measured" in row else {"seconds": row["seconds"]["median"], "gflop": row["gflop"]}


def compared(found: Sequence[dict[str, Any]], convolution: float) -> list[dict[str, Any]]:
    """The rows with their ratios to SRGAN and bicubic, their rates, and the share of a convolution's rate."""
    medians = {one["key"]: one["seconds"]["median"] for one in found if "seconds" in one}
    result = []
    for one in found:
        more: dict[str, Any] = {}
        if "seconds" in one:
            seconds = one["seconds"]["median"]
            rate = one["gflop"] / seconds
            more = {"gflop_per_s": rate, "share_of_convolution": rate / convolution}
            more |= {f"times_{key}": seconds / medians[key] for key in ("srgan", "bicubic") if key in medians}
        result.append(one | more)
    return result


def _line(size: int, one: dict[str, Any]) -> str:
    if "not_measured" in one:
        return f"{size:5}  {one['key']:14} not measured: {one['not_measured']}"
    seconds = one["seconds"]
    spread = f"{seconds['least']:.4g} to {seconds['greatest']:.4g}, {seconds['repeats']} times"
    return (
        f"{size:5}  {one['key']:14}{seconds['median']:10.4f} s ({spread})  {one['gflop']:9.1f} GFLOP  "
        f"{one['gflop'] / seconds['median']:7.1f} GFLOP/s  {one['peak_mb']:7.0f} MB"
    )


if __name__ == "__main__":
    main()
