"""What a worker process does with a run, and what it tells the driver of it."""

import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ecocseg.errors import UserError
from pipeline.cluster.resources import Resources
from pipeline.cluster.worker import load

STOPPED, LOST, NOT_STARTED, BUG = "stopped", "lost", "not started", "a bug"
MEMORY, MACHINE = "out of memory", "no machine"

_CONTEXT = 500_000_000
"""Bytes, about; as `ecocseg.engine.memory.CONTEXT`, whose import would cost every task seconds."""


@dataclass(frozen=True)
class Failure:
    """How a run ended as plain text: its exception itself might not survive pickling.

    `kind`: stopped (by `ecocseg stop`), lost (a process or node, for which the run is tried again),
    not started (processes that did not come up, which is no attempt of the run's), a bug (an
    exception that nobody foresaw), or the `kind` of its UserError.
    """

    message: str
    trace: str = ""
    kind: str = BUG


def attempt_run(
    execute: str, row: dict[str, Any], settings: dict[str, Any], threads: int, share: float
) -> Failure | None:
    """Execute one run; None when it finished, else what it raised.

    `share` of a GPU below 1 limits PyTorch to as much of its memory: what runs out of memory is
    then the run that takes too much, and not the one beside it.
    """
    try:
        call = load(execute, threads)
        if 0 < share < 1:
            _limit_memory(share)
        call(row, settings)
    except UserError as error:
        return Failure(str(error), kind=error.kind)
    except (Exception, SystemExit) as error:
        return Failure(f"{type(error).__name__}: {error}", traceback.format_exc())
    return None


def coordinate_group(
    execute: str,
    row: dict[str, Any],
    settings: dict[str, Any],
    asked: Resources,
    node_ids: Sequence[str],
    threads: int,
) -> Failure | None:
    """Execute one run in several processes, one on each of `node_ids`; as `attempt_run`."""
    # Imported here: Ray Train takes seconds to import, and few runs need it.
    from pipeline.cluster.group import LostWorker, NotStarted, run_group

    try:
        run_group(execute, row, settings, asked.processes, asked, node_ids, threads)
    except NotStarted as error:
        return Failure(str(error), kind=NOT_STARTED)
    except LostWorker as error:
        return Failure(str(error), kind=LOST)
    except UserError as error:
        return Failure(str(error), kind=error.kind)
    except (Exception, SystemExit) as error:
        return Failure(f"{type(error).__name__}: {error}", traceback.format_exc())
    return None


def _limit_memory(share: float) -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        # CUDA's own share of the card is beside what PyTorch's allocator counts.
        context = _CONTEXT / torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(max(0.05, share - context))
