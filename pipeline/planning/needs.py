"""What a run needs of a machine by its recipe: the plan's `needs`, for each of its processes."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pipeline.config.run_spec import COMPONENTS, Components, validate
from pipeline.planning.cost import card_gb, run_memory

# Host memory in GB: Python with PyTorch and CUDA's libraries, and each process that reads images.
# Without a GPU runs of streets took 1.2 GB and of camvid_ssl 1.9 GB, activations included.
_PROCESS_GB, _READER_GB = 3.0, 0.5
CPU_RUN_GB = 1.0
"""Host memory in GB of a run without a GPU, beside what would lie on the card."""


def needs_of(components: Components, config: Mapping[str, Any]) -> dict[str, Any]:
    """GPUs (a process each), GPU memory in GB (None: unknown), CPU cores and host memory in GB.

    All but `gpus` are of one process on a GPU, whose memory is derived, CUDA's own share included.
    """
    estimate = run_memory(components, config)
    schedule = components.schedule
    readers = schedule.loader_workers
    return {
        "gpus": schedule.gpus,
        "gpu_memory_gb": None if estimate is None else round(card_gb(estimate), 2),
        "cpus": 1 + readers,
        "memory_gb": _PROCESS_GB + readers * _READER_GB,
    }


def spread_needs(spec: Mapping[str, Any], processes: int) -> dict[str, Any]:
    """The same for a plan row's `spec` when `processes` share the batch."""
    config = {name: spec[name] for name in COMPONENTS}
    components = validate(config)
    schedule = replace(components.schedule, gpus=processes)
    return needs_of(replace(components, schedule=schedule), config)
