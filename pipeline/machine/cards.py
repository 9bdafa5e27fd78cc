"""The NVIDIA cards of this machine and who holds their memory, as `nvidia-smi` tells it."""

import subprocess
from dataclasses import dataclass, field

_CARDS = "index,uuid,name,memory.total,memory.used,driver_version"
_PROCESSES = "gpu_uuid,pid,used_memory,process_name"
_MEBIBYTE = 1 << 20
_SECONDS = 9


@dataclass(frozen=True, kw_only=True)
class Card:
    """One GPU: memory in GB of 10^9 bytes, `holders` in words."""

    index: int
    uuid: str
    name: str
    memory_gb: float
    used_gb: float
    driver: str
    holders: list[str] = field(default_factory=list)

    def describe(self) -> str:
        """Name and memory, in words."""
        free = self.memory_gb - self.used_gb
        return f"{self.name}, {free:.1f} of {self.memory_gb:.1f} GB free"


def cards() -> list[Card]:
    """All cards, whatever CUDA_VISIBLE_DEVICES says; empty where nobody can tell."""
    try:
        listed = _ask("--query-gpu", _CARDS)
        processes = _ask("--query-compute-apps", _PROCESSES)
    except (OSError, subprocess.SubprocessError):
        return []
    return parse(listed, processes)


def holders_of(uuid: str, processes: str | None = None) -> dict[int, str]:
    """Process id -> words, of those that hold memory of the card; empty where nobody can tell."""
    try:
        listed = _ask("--query-compute-apps", _PROCESSES) if processes is None else processes
    except (OSError, subprocess.SubprocessError):
        return {}
    found = {}
    for line in listed.splitlines():
        owner, pid, used, name = (part.strip() for part in (*line.split(",", 3), "", "", "")[:4])
        if uuid in owner and pid.isdecimal():
            amount = f"{int(used.split()[0]) * _MEBIBYTE / 1e9:.1f} GB" if _counts(used) else used
            found[int(pid)] = f"process {pid} ({name}) {amount}"
    return found


def parse(listed: str, processes: str) -> list[Card]:
    """Cards from the two tables of `nvidia-smi` in its CSV form without a header."""
    found = []
    for line in listed.splitlines():
        fields = [part.strip() for part in line.split(",")]
        if len(fields) < 6 or not fields[0].isdecimal():
            continue
        total, used = (int(text.split()[0]) if _counts(text) else 0 for text in fields[3:5])
        found.append(
            Card(
                index=int(fields[0]),
                uuid=fields[1],
                name=fields[2],
                memory_gb=total * _MEBIBYTE / 1e9,
                used_gb=used * _MEBIBYTE / 1e9,
                driver=fields[5],
                holders=list(holders_of(fields[1], processes).values()),
            )
        )
    return found


def _counts(text: str) -> bool:
    return bool(text.split()) and text.split()[0].isdecimal()


def _ask(table: str, columns: str) -> str:
    command = ["nvidia-smi", f"{table}={columns}", "--format=csv,noheader"]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=_SECONDS
    ).stdout
