"""A run in several processes, through Ray Train: on the GPUs of one machine or of several.

A process that fails leaves the others waiting in a sum over all of them. Ray Train looks at its
workers about every two seconds and ends them all when one is in trouble; the run then fails, or
is tried again by the grid, as a whole.
"""

import logging
import os
import shutil
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.train import (
    FailureConfig,
    LoggingConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    WorkerGroupError,
)
from ray.train.torch import TorchConfig, TorchTrainer

from ecocseg.errors import LostProcess, UserError
from pipeline.cluster.resources import Resources
from pipeline.cluster.worker import load
from pipeline.store.paths import run_directory

FOLDER = "processes"
"""In the run's folder, while it runs: what Ray Train writes."""
_TIMEOUT_S = 3600
"""Of a sum over the processes. Lost ones are found at once: this is for one that hangs."""
_START_S = 300
_NODE_LABEL = "ray.io/node-id"
_OUT_OF_MEMORY = "low on memory"
"""In Ray's words for a worker that it ended because the machine had no memory left."""


class LostWorker(Exception):
    """A process of the run, or its node, is gone."""


class NotStarted(LostWorker):
    """The processes did not come up: a node went before, or somebody else has its place."""


class OutOfMemory(UserError):
    """A machine had no memory left for a process of the run."""

    kind = "out of memory"


class _Told(Exception):
    """What a process raised, as plain text: the exception itself might not survive pickling.

    `kind` and no trace for a UserError, the name of its class and a trace for another one.
    """

    def __init__(self, message: str, kind: str, trace: str = "") -> None:
        super().__init__(message, kind, trace)
        self.message, self.kind, self.trace = message, kind, trace


class _Elsewhere(Exception):
    """The traceback in another process."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def run_group(
    execute: str,
    row: Mapping[str, Any],
    settings: Mapping[str, Any],
    processes: int,
    resources: Resources,
    node_ids: Sequence[str],
    threads: int,
) -> None:
    """Call `execute` ("module:function") with `row` and `settings` in `processes` processes.

    Each gets `resources`; process i is on the node `node_ids[i]`. They find each other as torch's
    default process group, and compute with `threads` threads each. Raises UserError with the text
    of the run's own, an exception of the same name and text for any other, LostWorker when a
    process or a node was lost, and NotStarted when they did not come up.
    """
    # Ray Train would change to a folder of its own, and give up on processes that start slowly.
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(_START_S)
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    folder = run_directory(Path(settings["results"]), str(row["run_id"])) / FOLDER
    options = resources.ray_options()
    per_worker = {"CPU": options["num_cpus"]}
    if resources.gpus:
        per_worker["GPU"] = options["num_gpus"]
    if "memory" in options:
        per_worker["memory"] = options["memory"]
    trainer = TorchTrainer(
        _process,
        train_loop_config={
            "execute": execute,
            "row": dict(row),
            "settings": dict(settings),
            "threads": threads,
        },
        torch_config=TorchConfig(timeout_s=_TIMEOUT_S),
        scaling_config=ScalingConfig(
            num_workers=processes,
            use_gpu=bool(resources.gpus),
            resources_per_worker=per_worker,
            label_selector=[{_NODE_LABEL: node} for node in node_ids],  # type: ignore[call-arg]
        ),
        run_config=RunConfig(
            name="train",
            storage_path=str(folder),
            # Ray Train would try for ever to start processes on a node that is gone.
            failure_config=FailureConfig(  # type: ignore[call-arg]
                max_failures=0, max_preemption_failures=0, controller_failure_limit=0
            ),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    try:
        trainer.fit()
    except WorkerGroupError as error:
        raise _cause(error.worker_failures, str(error))  # noqa: B904
    except TrainingFailedError as error:
        raise NotStarted(_first_line(str(error))) from None
    except ray.exceptions.RayActorError as error:
        raise LostWorker(_first_line(str(error))) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _process(config: dict[str, Any]) -> None:
    """What each process does."""
    try:
        load(config["execute"], config["threads"])(config["row"], config["settings"])
    except UserError as error:
        raise _Told(str(error), getattr(error, "kind", "failed")) from None
    except LostProcess:
        raise
    except (Exception, SystemExit) as error:
        raise _Told(str(error), type(error).__name__, traceback.format_exc()) from None


def _cause(failures: Mapping[int, Exception], text: str) -> Exception:
    """The exception of the run: what a process raised itself comes before what others saw of it."""
    for _, error in sorted(failures.items()):
        if isinstance(error, _Told):
            if not error.trace:
                mendable: Exception = type("RunError", (UserError,), {"kind": error.kind})(
                    error.message
                )
                return mendable
            found: Exception = type(error.kind, (Exception,), {})(error.message)
            found.__cause__ = _Elsewhere(error.trace)
            return found
    # A process that is gone says more than one that got no answer from it.
    order = sorted(failures.values(), key=lambda error: isinstance(error, LostProcess))
    for error in order:
        if _OUT_OF_MEMORY in str(error):
            return OutOfMemory(f"the machine ran out of memory: {_first_line(str(error))}")
    return LostWorker(_first_line(str(order[0]) if order else text))


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]
