"""Findings about memory: how much there is, its pages, and what malloc does with it."""

from __future__ import annotations

from attnbench.doctor.finding import Finding, ok, unknown, warning
from attnbench.doctor.findings.words import counted, percent
from attnbench.doctor.readings import Readings
from attnbench.units import MIB, format_bytes

__all__ = ["huge_pages", "malloc", "room", "swap"]

#: Less than this, and the larger cases of the shipped scenarios end as `oom`.
LITTLE_BYTES = 2048 * MIB

#: Of a freed block this much must stay for malloc to count as pinned.
KEPT_LIMIT = 0.9

#: Allocators that glibc's variables do not steer, by what their files' names have in them.
OTHER_ALLOCATORS = ("jemalloc", "tcmalloc", "mimalloc", "hoard", "tbbmalloc", "musl")


def room(found: Readings) -> Finding:
    """Is there memory enough?"""
    memory = found.memory
    if memory.available_bytes is None:
        return unknown("memory", "the system does not tell how much memory is available")
    available = memory.available_bytes
    text = f"{format_bytes(available)} available"
    if memory.total_bytes is not None:
        text += f" of {format_bytes(memory.total_bytes)}"
    if memory.granted_bytes is not None:
        text += f"; a control group grants {format_bytes(memory.granted_bytes)}"
        available = min(available, memory.granted_bytes)
    if not available < LITTLE_BYTES:
        return ok("memory", text)
    return warning(
        "memory",
        text,
        effect="larger cases end as oom",
        remedy="end what takes memory (`top -o %MEM`), or raise the container's --memory",
    )


def swap(found: Readings) -> Finding:
    """Was anything swapped out, and is it being swapped now?"""
    used, pages = found.memory.swap_used_bytes, found.others.swapped_pages
    if used is None:
        return unknown("swap", "the system does not tell whether anything was swapped out")
    if not (pages or 0) > 0:
        still = ", and nothing moved while we watched" if used > 0 else ""
        return ok("swap", f"{format_bytes(used)} in use{still}")
    return warning(
        "swap",
        f"{format_bytes(used)} in use, {counted(pages or 0, 'page')} moved in a second",
        effect="a page that was swapped out costs more than most kernels: times jump",
        remedy="sudo swapoff -a\n(or end what takes memory, and --set limits.memory_fraction=0.5)",
    )


def huge_pages(found: Readings) -> Finding:
    """How is memory paged?"""
    memory = found.memory
    if memory.huge_pages is None:
        return unknown("huge pages", "the system does not tell how memory is paged")
    text = f"transparent ones: {memory.huge_pages}" + (f", defrag {memory.defrag}" if memory.defrag else "")
    if memory.huge_pages != "always":
        return ok("huge pages", text)
    if memory.defrag != "always":
        return ok("huge pages", text, effect="peak_rss_bytes counts up to 2 MiB more for each tensor")
    command = "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled"
    return warning(
        "huge pages",
        text,
        effect="a page fault may wait until memory is compacted: first calls jump; peak_rss_bytes counts up "
        "to 2 MiB more for each tensor",
        remedy=f"{command}\n(on the host: this is a container)" if found.processor.container else command,
    )


def malloc(found: Readings) -> Finding:
    """Does the allocator of benches keep what is freed, as it is told?"""
    bench = found.bench
    allocator = bench.allocator or bench.libc
    if allocator is None and bench.kept_share is None:
        why = f": {bench.failure}" if bench.failure else ""
        return unknown("malloc", f"the measuring process does not tell which allocator it has{why}")
    name = f"{bench.libc} ({bench.allocator})" if bench.libc and bench.allocator else f"{allocator}"
    other = bench.allocator is not None and any(each in bench.allocator for each in OTHER_ALLOCATORS)
    if bench.kept_share is None:
        kept = "whether it keeps what is freed is not known"
    else:
        kept = f"of a freed block {percent(bench.kept_share)} is kept"
    if not other and (bench.kept_share is None or bench.kept_share >= KEPT_LIMIT):
        return ok("malloc", f"{name}, pinned: {kept}")
    text = f"{bench.allocator if other else name}: {kept}; measure.malloc does not steer it"
    musl = bench.allocator is not None and "musl" in bench.allocator
    return warning(
        "malloc",
        text,
        effect="kernels that allocate pay for page faults by another rule; times and peak_rss_bytes are not "
        "comparable with other machines'",
        remedy="use a Python built for glibc (an image such as python:3.12-slim instead of -alpine)"
        if musl
        else "unset LD_PRELOAD GLIBC_TUNABLES\n(and whatever else loads or steers an allocator)",
    )
