"""What processes cost: CPU time of all their threads, memory, and what the rest of the machine did meanwhile."""

import os
import resource
import time
from pathlib import Path

PROC = Path("/proc")
TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
PROCESS_CLOCK = 2  # CPUCLOCK_SCHED in the kernel's clock ids: what the scheduler counted, in nanoseconds
BUSY_FIELDS = (0, 1, 2, 5, 6, 7)  # user, nice, system, irq, softirq, steal
PARENT, GROUP = 1, 2  # fields of /proc/PID/stat after the command


def tree(root: int) -> set[int]:
    """``root``, its descendants, and whoever else is in the process group that it leads."""
    parents: dict[int, tuple[int, int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[PARENT]), int(fields[GROUP])
    found = {root} | {pid for pid, (_, group) in parents.items() if group == root}
    while more := {pid for pid, (parent, _) in parents.items() if parent in found} - found:
        found |= more
    return found


def cpu_ns(pids: set[int]) -> int:
    """CPU time of the processes, in ns.

    A process's clock is the sum of its threads' ``schedstat``, and holds threads that have ended as well.
    """
    total = 0
    for pid in pids:
        try:
            total += time.clock_gettime_ns((~pid << 3) | PROCESS_CLOCK)
        except OSError:
            continue
    return total


def memory_bytes(pids: set[int]) -> list[int]:
    """Resident memory of each process, largest first."""
    page = os.sysconf("SC_PAGE_SIZE")
    found = []
    for pid in pids:
        try:
            found.append(int((PROC / str(pid) / "statm").read_text().split()[1]) * page)
        except OSError:
            continue
    return sorted(found, reverse=True)


def busy_ns() -> int:
    """Time that all cores were busy since the start of the machine, what the host stole included."""
    fields = (PROC / "stat").read_text().splitlines()[0].split()[1:]
    return sum(int(fields[index]) for index in BUSY_FIELDS) * TICK_NS


def own_ns() -> int:
    """CPU time of this process and of everything that it started, whether ended or not."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return cpu_ns(tree(os.getpid())) + int((ended.ru_utime + ended.ru_stime) * 1e9)
