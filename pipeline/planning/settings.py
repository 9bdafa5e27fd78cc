"""What runs are told beside their row of the plan."""

from pathlib import Path
from typing import Any

from pipeline.config.params import Params
from pipeline.machine.environment import pick_device
from pipeline.machine.versions import git_revision
from pipeline.store.paths import RESULTS
from pipeline.tracking import TrackingConfig


def tracking_config(params: Params) -> TrackingConfig:
    """Tracking as params.yaml asks for it, with absolute paths."""
    return TrackingConfig(
        enabled=params.tracking.enabled,
        uri=params.tracking.uri,
        folder=str((RESULTS / "mlflow").absolute()),
    )


def run_settings(params: Params) -> dict[str, Any]:
    """What `execute_run` needs to know beside the plan, as plain values with absolute paths."""
    if params.cluster.address == "local":
        pick_device(params.cluster.device)
    tracking = tracking_config(params)
    return {
        "data_root": str(Path(params.data.root).absolute()),
        "results": str(RESULTS.absolute()),
        "device": params.cluster.device,
        "git": git_revision(),
        "storage": params.cluster.storage,
        "tracking": {
            "enabled": tracking.enabled,
            "uri": tracking.uri,
            "folder": tracking.folder,
        },
    }
