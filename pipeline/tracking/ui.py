"""The command behind `ecocseg ui`: MLflow's own page over the local store."""

import sys

from ecocseg.errors import UserError
from pipeline.tracking.config import TrackingConfig


def ui_address(port: int = 5000, host: str = "127.0.0.1") -> str:
    """What to open in a browser: the page in its view for training, not for language models."""
    return f"http://{host}:{port}/#/experiments?workflowType=machine_learning"


def ui_command(config: TrackingConfig, port: int = 5000, host: str = "127.0.0.1") -> list[str]:
    """The command line that serves MLflow's page for the SQLite store at http://host:port.

    It runs until it is ended. The server is the artifact proxy as well, so the page shows
    pictures wherever the results folder has been moved to.

    Raises:
        UserError: tracking goes to a server, whose page is there already; or there is no store.
    """
    if config.database is None:
        raise UserError(f"tracking.uri: {config.uri} is a server; open that address in a browser")
    if not config.database.exists():
        raise UserError(
            f"{config.database}: there is no tracking store yet; it is made by the first training "
            "(`make repro`), unless tracking.enabled is false"
        )
    return [
        # Job execution serves features for language models; its processes double the start-up.
        "env",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false",
        "MLFLOW_DISABLE_TELEMETRY=true",
        "DO_NOT_TRACK=true",
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        config.store_uri,
        "--artifacts-destination",
        str(config.artifact_root),
        "--host",
        host,
        "--port",
        str(port),
        "--workers",
        "2",
    ]
