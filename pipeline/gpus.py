"""The GPUs of this machine as labels of its Ray node: their kind, and the memory of one."""

import re
import subprocess

from ecocseg.errors import UserError

_QUERY = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]


def gpu_labels() -> dict[str, str]:
    """`{"gpu": "rtx3090", "gpu-memory-gb": "25.8"}` (10^9 bytes); empty without an NVIDIA GPU.

    Raises UserError when the machine's GPUs differ: a node has one label for all of them.
    """
    try:
        listed = subprocess.run(_QUERY, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return {}
    return labels_from(listed.stdout)


def labels_from(listed: str) -> dict[str, str]:
    """The labels for what `nvidia-smi` lists: a line `name, MiB` for each card."""
    cards = [line.rpartition(",") for line in listed.splitlines() if "," in line]
    found = {(kind_of(name), int(memory)) for name, _, memory in cards if memory.strip().isdigit()}
    if not found:
        return {}
    if len({kind for kind, _ in found}) > 1:
        names = ", ".join(sorted({kind for kind, _ in found}))
        raise UserError(
            f"GPUs of this machine: got several kinds ({names}), allowed one a Ray node; start a "
            "node for each kind with CUDA_VISIBLE_DEVICES and --labels of its own"
        )
    kind, memory = min(found)
    return {"gpu": kind, "gpu-memory-gb": f"{memory * 2**20 / 1e9:.1f}"}


def kind_of(name: str) -> str:
    """A card's name as a label: `NVIDIA GeForce RTX 3090` is `rtx3090`, `NVIDIA H200` `h200`."""
    words = [w for w in name.lower().split() if w not in ("nvidia", "geforce", "tesla", "quadro")]
    text = "".join(words).replace("(tm)", "")
    return re.sub(r"[^a-z0-9._-]", "", text).strip("-_.") or "unknown"
