"""Whether the kernel has ended processes because memory ran out, by its own counters."""

from pathlib import Path


def count_oom_kills(root: Path = Path("/")) -> int | None:
    """Return how many processes of this machine, or container, the kernel has ended for memory.

    None where the kernel does not say.
    """
    counts = [
        _counter(root / "sys/fs/cgroup/memory.events", "oom_kill"),
        _counter(root / "sys/fs/cgroup/memory/memory.oom_control", "oom_kill"),
        _counter(root / "proc/vmstat", "oom_kill"),
    ]
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _counter(file: Path, key: str) -> int | None:
    try:
        lines = file.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    values = [line.split()[1] for line in lines if line.split()[:1] == [key]]
    return int(values[0]) if values and values[0].isdigit() else None
