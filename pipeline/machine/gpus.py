"""The GPUs of this machine as labels of its Ray node: their kind, and the memory of one."""

import os
import re
from collections.abc import Sequence

from ecocseg.errors import UserError
from pipeline.machine.cards import Card, cards


def gpu_labels() -> dict[str, str]:
    """`{"gpu": "rtx3090", "gpu-memory-gb": "25.8"}` (10^9 bytes); empty without an NVIDIA GPU.

    Of the cards that CUDA_VISIBLE_DEVICES leaves. Raises UserError when they differ: a node has one
    label for all of them.
    """
    return labels_of(visible(cards(), os.environ.get("CUDA_VISIBLE_DEVICES")))


def visible(found: Sequence[Card], chosen: str | None) -> list[Card]:
    """The cards that CUDA_VISIBLE_DEVICES (`chosen`: indices or beginnings of UUIDs) leaves."""
    if chosen is None:
        return list(found)
    names = [name.strip() for name in chosen.split(",") if name.strip()]
    return [
        card
        for card in found
        if any(name == str(card.index) or card.uuid.startswith(name) for name in names)
    ]


def labels_of(found: Sequence[Card]) -> dict[str, str]:
    """The labels for a node with these cards."""
    if not found:
        return {}
    kinds = sorted({kind_of(card.name) for card in found})
    if len(kinds) > 1:
        raise UserError(
            f"GPUs of this machine: got several kinds ({', '.join(kinds)}), allowed one a Ray "
            "node; set CUDA_VISIBLE_DEVICES to those of one kind, and start a node for each kind"
        )
    return {"gpu": kinds[0], "gpu-memory-gb": f"{min(card.memory_gb for card in found):.1f}"}


def kind_of(name: str) -> str:
    """A card's name as a label: `NVIDIA GeForce RTX 3090` is `rtx3090`, `NVIDIA H200` `h200`."""
    words = [w for w in name.lower().split() if w not in ("nvidia", "geforce", "tesla", "quadro")]
    text = "".join(words).replace("(tm)", "")
    return re.sub(r"[^a-z0-9._-]", "", text).strip("-_.") or "unknown"
