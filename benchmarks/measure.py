"""What the benchmarks share: taking turns, medians, and saying on what they ran."""

import datetime
import importlib.metadata
import os
import pathlib
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def take_turns(
    contenders: Mapping[str, Callable[[], object]], rounds: int, warm_ups: int = 1
) -> dict[str, list[float]]:
    """Seconds of each call, contenders in turn, so that noise falls on all alike."""
    for _ in range(warm_ups):
        for run in contenders.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def report(
    title: str, seconds: Mapping[str, Sequence[float]], ours: str, unit: float = 1.0
) -> None:
    """Prints medians, spreads and how many times faster ours is than each.

    Args:
      title: of the table.
      seconds: of the calls of each contender.
      ours: the name of the contender to compare with.
      unit: how much work a call does; with another than 1, work a second is shown too.
    """
    print(f"\n{title}\n")
    print("| | median s | from - to s | a second | ours is faster by |")
    print("|---|---|---|---|---|")
    reference = statistics.median(seconds[ours])
    for name, values in seconds.items():
        median = statistics.median(values)
        rate = f"{unit / median:.1f}" if unit != 1 else ""
        print(
            f"| {name} | {median:.3f} | {min(values):.3f} - {max(values):.3f} | {rate} "
            f"| {median / reference:.2f} |"
        )
    sys.stdout.flush()


def machine(*packages: str) -> str:
    """The processor, its cores, the versions and the date, in a line."""
    processor = platform.processor() or platform.machine()
    flags: set[str] = set()
    if sys.platform == "linux":
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                processor = value.strip()
            if key.strip() == "flags":
                flags = set(value.split())
    vectors = [name for name in ("avx2", "avx512f", "avx512_bf16") if name in flags]
    versions = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    return (
        f"{processor} ({', '.join(vectors)}), {os.cpu_count()} cores; "
        f"Python {platform.python_version()}, {', '.join(versions)}; "
        f"{datetime.date.today()}"
    )


def peak_memory_mib(children: bool = False) -> float:
    """The largest memory that this process, or a child that ended, has taken so far."""
    who = resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF
    return resource.getrusage(who).ru_maxrss / 1024
