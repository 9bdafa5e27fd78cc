"""In what a run differs from the recipe that its cell of the paper stands for."""

from collections.abc import Mapping, Sequence
from typing import Any

# Settings of a schedule that decide how fast or how safe a run is, never what comes out of it.
SPEED_ONLY = ("loader_workers", "checkpoint_every", "activation_checkpointing", "gpus")


def deviations(report: Mapping[str, Any], schedule: Mapping[str, Any], *, bf16: bool) -> list[str]:
    """What the cell says of itself, the user's overrides, and settings that save memory.

    Overrides and settings count where they change numbers.
    `report` is a plan row's, `schedule` the resolved one; `bf16`: the run computes in bfloat16. The
    settings count only in a cell that the paper has: its recipes are float32 over whole batches.
    """
    own = report.get("deviation")
    found = ([own] if own else []) + changing(report.get("overrides", ()))
    if report.get("paper") is None:
        return found
    if bf16:
        chosen = " (auto)" if schedule.get("precision") == "auto" else ""
        _add(found, "precision", f"bf16{chosen}")
    # Records of earlier versions have no such setting.
    if (parts := schedule.get("micro_batches", 1)) > 1:
        _add(found, "micro_batches", parts)
    return found


def changing(overrides: Sequence[str]) -> list[str]:
    """The overrides without those of settings that decide only how fast a run is."""
    speed = {f"schedule.{name}" for name in SPEED_ONLY}
    return [text for text in overrides if text.lstrip("+").partition("=")[0] not in speed]


def _add(found: list[str], field: str, value: object) -> None:
    """Name the field, unless an override that the list has names it."""
    if not any(text.partition("=")[0] == f"schedule.{field}" for text in found):
        found.append(f"schedule.{field}: {value}")
