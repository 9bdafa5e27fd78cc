"""What a run of the plan asks of a machine."""

import math
from collections.abc import Mapping
from typing import Any

from pipeline.cluster.resources import GPU_LABEL, Resources
from pipeline.cluster.session import has_gpu
from pipeline.config.params import Params
from pipeline.planning.needs import CPU_RUN_GB, spread_needs


def resources(params: Params, row: Mapping[str, Any], on_gpu: bool | None = None) -> Resources:
    """What `row` of the plan asks of a machine: what its recipe needs, or what params.yaml says.

    With `on_gpu` None inside `connect(...)`: whether there are GPUs is asked of the cluster.
    """
    cluster = params.cluster
    needs = row.get("needs") or spread_needs(row["spec"], row["spec"]["schedule"]["gpus"])
    on_gpu = uses_gpu(params) if on_gpu is None else on_gpu
    processes = cluster.processes_per_run or (needs["gpus"] if on_gpu else 1)
    if processes != needs["gpus"]:
        needs = spread_needs(row["spec"], processes)
    card = cluster.gpu_memory_gb_per_run or needs["gpu_memory_gb"]
    # Without a GPU there is one thread, and what would lie on the card lies in host memory.
    cpus, memory = (needs["cpus"], needs["memory_gb"]) if on_gpu else (1, CPU_RUN_GB + (card or 0))
    memory = cluster.memory_gb_per_run or memory
    return Resources(
        cpus=cluster.cpus_per_run or cpus,
        gpus=1.0 if on_gpu else 0.0,
        memory_mb=math.ceil(memory * 1e9 / 2**20),
        label=f"{GPU_LABEL}={cluster.gpu}" if cluster.gpu and on_gpu else None,
        gpu_memory_gb=card if on_gpu else None,
        runs_per_gpu=cluster.runs_per_gpu,
        processes=processes,
    )


def uses_gpu(params: Params) -> bool:
    """Whether runs go to GPUs; `device: auto` asks the cluster, inside `connect(...)`."""
    if params.cluster.device != "auto":
        return params.cluster.device.startswith("cuda")
    return has_gpu()
