"""The MLflow store: made once by the driver, asked by everyone."""

import fcntl
import logging
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse

import requests
from mlflow.entities import Experiment, Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.tracking import MlflowClient

from ecocseg.errors import UserError
from ecocseg.files import atomic_path
from pipeline.tracking.config import TrackingConfig, refuse_network_disk
from pipeline.tracking.spool import safe_name

# What fails is raised too and noted in tracking.log: no stack traces amid the live table.
for _name in ("mlflow", "alembic"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)

RUN_ID_TAG = "ecocseg.run_id"
_PROXY = "mlflow-artifacts:/"
_PAGE = 1000
_CONNECT_S = 2.0
_DESCRIPTION_TAG = "mlflow.note.content"
_KIND_TAG = "mlflow.experimentKind"


class StoreUnavailable(Exception):
    """The store cannot be reached now; what waits is sent later."""


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """A run as MLflow has it. `run_id` is ours; metrics hold each name's latest value."""

    run_id: str
    mlflow_run_id: str
    experiment: str
    name: str
    status: str
    deleted: bool
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]


def open_client(config: TrackingConfig) -> MlflowClient:
    """A client of the store.

    Raises:
        StoreUnavailable: nothing answers at the server's address, or there is no SQLite file yet
            (the driver makes it: several processes making it at once crash each other).
    """
    if config.database is not None:
        if not config.database.exists():
            raise StoreUnavailable(f"{config.database} is not there; `prepare_store` makes it")
    elif not requests.utils.get_environ_proxies(config.store_uri):
        address = urlparse(config.store_uri)
        port = address.port or (443 if address.scheme == "https" else 80)
        try:
            socket.create_connection((address.hostname or "", port), timeout=_CONNECT_S).close()
        except OSError as error:
            raise StoreUnavailable(f"nothing answers at {config.store_uri} ({error})") from error
    return MlflowClient(tracking_uri=config.store_uri)


def prepare_store(
    config: TrackingConfig, experiments: Sequence[str] | Mapping[str, str]
) -> str | None:
    """Make the store and its experiments, in the driver, before any run starts.

    experiments: names, or names with the description that MLflow's page shows.
    Returns None, or in one sentence why tracking does not work now; training can start all the
    same, and everything is sent once the store answers.

    Raises:
        UserError: the SQLite file would lie on a network disk.
    """
    if not config.enabled:
        return None
    refuse_network_disk(config)
    described = experiments if isinstance(experiments, Mapping) else dict.fromkeys(experiments, "")
    try:
        if config.database is not None:
            _create_database(config.database)
        client = open_client(config)
        for name, description in described.items():
            _prepare_experiment(client, config, name, description)
    except (MlflowException, StoreUnavailable, OSError) as error:
        return f"tracking waits, training goes on: {error}"
    return None


def experiment_id(client: MlflowClient, config: TrackingConfig, name: str) -> str:
    """MLflow's id of our experiment `name`; it is created, or restored when it was deleted."""
    full_name = config.prefix + name
    experiment = client.get_experiment_by_name(full_name)
    if experiment is None:
        # Proxied: the store holds no absolute path, so a moved folder keeps its artifacts. A
        # server decides itself where it keeps them.
        location = f"{_PROXY}{safe_name(full_name)}" if config.database is not None else None
        try:
            return str(client.create_experiment(full_name, artifact_location=location))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            experiment = client.get_experiment_by_name(full_name)
    if experiment is None:
        raise StoreUnavailable(f"experiment {full_name} can be neither found nor created")
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    return str(experiment.experiment_id)


def search_runs(
    client: MlflowClient,
    experiment_ids: Sequence[str],
    filter_string: str = "",
    view: int = ViewType.ACTIVE_ONLY,
) -> Iterator[Run]:
    """All runs that match, oldest first, page after page: one page ends at 1,000 silently."""
    token = None
    while True:
        page = client.search_runs(
            list(experiment_ids),
            filter_string,
            run_view_type=view,
            max_results=_PAGE,
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )
        yield from page
        token = page.token
        if not token:
            return


def list_runs(config: TrackingConfig, experiment: str | None = None) -> list[TrackedRun]:
    """All runs that this project tracked (of one experiment), deleted ones marked; all pages.

    Raises:
        StoreUnavailable, MlflowException: the store does not answer.
    """
    client = open_client(config)
    names = {e.experiment_id: e.name for e in _experiments(client)}
    wanted = [
        key for key, name in names.items() if experiment in (None, name.removeprefix(config.prefix))
    ]
    return [
        TrackedRun(
            run_id=run.data.tags[RUN_ID_TAG],
            mlflow_run_id=run.info.run_id,
            experiment=names[run.info.experiment_id].removeprefix(config.prefix),
            name=run.info.run_name or "",
            status=run.info.status,
            deleted=run.info.lifecycle_stage == "deleted",
            params=dict(run.data.params),
            metrics=dict(run.data.metrics),
            tags=dict(run.data.tags),
        )
        for run in (search_runs(client, wanted, view=ViewType.ALL) if wanted else ())
        if RUN_ID_TAG in run.data.tags
    ]


def send_artifact(
    client: MlflowClient, config: TrackingConfig, run: Run, file: Path, target: str
) -> None:
    """Put `file` into the run's artifacts as `target` (a path with / in it)."""
    uri = str(run.info.artifact_uri)
    if config.database is not None and uri.startswith(_PROXY):
        # The same place from which the server of `ui_command` serves this address.
        place = config.artifact_root / uri.removeprefix(_PROXY).lstrip("/") / target
        with atomic_path(place) as temporary:
            shutil.copyfile(file, temporary)
        return
    folder = target.rpartition("/")[0]
    client.log_artifact(run.info.run_id, str(file), folder or None)


def _create_database(database: Path) -> None:
    database.parent.mkdir(parents=True, exist_ok=True)
    with (database.parent / "prepare.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            # Its migrations run here, under the lock, whether the file is new or of an old version.
            SqlAlchemyStore(f"sqlite:///{database}", _PROXY)
        except MlflowException as error:
            raise UserError(
                f"{database}: MLflow cannot use it ({error}); move the file away, and a new one "
                "is made and filled from the runs' folders"
            ) from error


def _prepare_experiment(
    client: MlflowClient, config: TrackingConfig, name: str, description: str
) -> None:
    key = experiment_id(client, config, name)
    tags = client.get_experiment(key).tags
    # The page then opens on training runs and charts, not on traces of language models.
    wanted = {_KIND_TAG: "custom_model_development"}
    if description:
        wanted[_DESCRIPTION_TAG] = description
    for tag, value in wanted.items():
        if tags.get(tag) != value:
            client.set_experiment_tag(key, tag, value)


def _experiments(client: MlflowClient) -> Iterator[Experiment]:
    token = None
    while True:
        page = client.search_experiments(
            view_type=ViewType.ALL, max_results=_PAGE, page_token=token
        )
        yield from page
        token = page.token
        if not token:
            return
