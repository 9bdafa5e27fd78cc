"""MLflow tracking as a side channel: it may fail, training goes on, and nothing is lost.

A run writes its points to its own event log and its artifacts to its own folder; a thread sends
them on. What could not be sent waits there until the store is back (`replay`). Only this package
imports mlflow, and no sooner than something is sent: importing it takes seconds.
"""

import os
from typing import TYPE_CHECKING, Any

from pipeline.tracking.config import TrackingConfig, network_file_system, refuse_network_disk
from pipeline.tracking.run import RunTracker, wait_for_sending
from pipeline.tracking.ui import ui_address, ui_command

if TYPE_CHECKING:
    from pipeline.tracking.catch_up import Replayed, replay
    from pipeline.tracking.store import TrackedRun, list_runs, prepare_store

__all__ = [
    "Replayed",
    "RunTracker",
    "TrackedRun",
    "TrackingConfig",
    "list_runs",
    "network_file_system",
    "prepare_store",
    "refuse_network_disk",
    "replay",
    "ui_address",
    "ui_command",
    "wait_for_sending",
]
_LAZY = {
    "Replayed": "catch_up",
    "replay": "catch_up",
    "TrackedRun": "store",
    "list_runs": "store",
    "prepare_store": "store",
}


# mlflow reads them when imported and at each request. Our own loop tries again, later; a request
# must not linger, and nothing but our own words belongs on the terminal.
for _name, _value in {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_CONFIGURE_LOGGING": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}.items():
    os.environ.setdefault(_name, _value)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
