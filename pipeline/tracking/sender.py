"""Sends what waits in a run's folder to MLflow: one run per run id, in order, nothing twice."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from mlflow.entities import Dataset, DatasetInput, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from ecocseg.files import sha256_file
from pipeline.store.events import Event, read_from
from pipeline.tracking.config import TrackingConfig
from pipeline.tracking.spool import (
    PARENT_TAG,
    RunState,
    events_path,
    log_problem,
    safe_name,
    spooled_files,
)
from pipeline.tracking.store import (
    RUN_ID_TAG,
    StoreUnavailable,
    experiment_id,
    open_client,
    search_runs,
    send_artifact,
)

# MLflow's page groups charts by all that stands before the last slash: one group for each kind.
_PREFIXES = {"step": "train/", "eval": "eval/", "system": "system/", "final": ""}
_METRICS_PER_BATCH = 1000
_PARAMS_PER_BATCH = 100
_MAX_TAG = 8000
_MAX_DIGEST = 36
DATA_TAG = "data."


class Sender:
    """Sends one run. The caller holds the run's tracking lock; `state` is saved as it advances."""

    def __init__(self, config: TrackingConfig, run_dir: Path, state: RunState):
        self._config = config
        self._run_dir = Path(run_dir)
        self._state = state
        self._open: tuple[MlflowClient, Run] | None = None
        self._tags_there: dict[str, str] = {}
        # Kind of event -> last step of it that the run had in MLflow when it was opened.
        self._there: dict[str, int] | None = None

    def send(self) -> None:
        """Send everything that waits; when this returns the store has it.

        A failure leaves the state at the last batch that arrived. Sending a batch again that had
        arrived (a reply was lost) adds nothing: MLflow keeps equal points once.

        Raises:
            StoreUnavailable, MlflowException, OSError: try again later.
        """
        # Read first: what is spooled before a run is closed must go before its status does.
        status = self._state.status
        try:
            if self._open is None:
                client = open_client(self._config)
                self._open = client, self._open_run(client)
            client, run = self._open
            self._send_tags(client, run)
            self._send_events(client, run.info.run_id)
            self._send_artifacts(client, run)
            self._send_status(client, run, status)
        except BaseException:
            self._open = None
            raise

    def _open_run(self, client: MlflowClient) -> Run:
        state = self._state
        run = self._known_run(client) or self._found_run(client) or self._created_run(client)
        if run.info.lifecycle_stage == "deleted":
            raise StoreUnavailable(
                f"run {run.info.run_id} was deleted in MLflow; restore it there to go on, or "
                "remove it for good (`mlflow gc`) to have it made anew"
            )
        # Only what another machine sent and this one's folder does not know of must be asked for.
        self._there = {} if run.data.metrics else None
        if run.info.run_id != state.mlflow_run_id:
            state.mlflow_run_id, state.offset, state.artifacts = run.info.run_id, 0, {}
            state.save(self._run_dir)
        if run.info.status != "RUNNING" and state.status is None:
            client.update_run(run.info.run_id, status="RUNNING")
        self._send_params(client, run)
        self._send_datasets(client, run)
        self._tags_there = dict(run.data.tags)
        return run

    def _known_run(self, client: MlflowClient) -> Run | None:
        if self._state.mlflow_run_id is None:
            return None
        try:
            return client.get_run(self._state.mlflow_run_id)
        except MlflowException as error:
            # The store was emptied or is another one: everything is sent again, to a new run.
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise

    def _found_run(self, client: MlflowClient) -> Run | None:
        """The run made by a process that was killed, or cut off, before it noted its id."""
        runs = self._runs_of(client, self._state.run_id)
        # A creation whose reply came too late may have been repeated: the oldest one stays.
        for surplus in runs[1:]:
            client.delete_run(surplus.info.run_id)
        return runs[0] if runs else None

    def _runs_of(self, client: MlflowClient, run_id: str) -> list[Run]:
        experiment = experiment_id(client, self._config, self._state.experiment)
        return list(search_runs(client, [experiment], f"tags.`{RUN_ID_TAG}` = '{run_id}'"))

    def _created_run(self, client: MlflowClient) -> Run:
        state = self._state
        return client.create_run(
            experiment_id(client, self._config, state.experiment),
            start_time=state.started,
            tags=self._tags() | self._parent(client),
            run_name=state.name,
        )

    def _tags(self) -> dict[str, str]:
        tags = {safe_name(key): str(value)[:_MAX_TAG] for key, value in self._state.tags.items()}
        # MLflow's own names for what its page shows as source.
        tags["mlflow.source.name"] = "ecocseg"
        tags["mlflow.source.type"] = "LOCAL"
        if re.fullmatch("[0-9a-f]{40}", tags.get("git", "")):
            tags["mlflow.source.git.commit"] = tags["git"]
        return {**tags, RUN_ID_TAG: self._state.run_id}

    def _parent(self, client: MlflowClient) -> dict[str, str]:
        """What makes MLflow show a run below the one that it names as its parent."""
        parent = self._state.tags.get(PARENT_TAG)
        if parent is None:
            return {}
        runs = self._runs_of(client, parent)
        if not runs:
            raise StoreUnavailable(f"its parent run {parent} is not tracked yet")
        return {"mlflow.parentRunId": str(runs[0].info.run_id)}

    def _send_tags(self, client: MlflowClient, run: Run) -> None:
        tags = self._tags()
        new = {key: value for key, value in tags.items() if self._tags_there.get(key) != value}
        if new:
            client.log_batch(run.info.run_id, tags=[RunTag(*tag) for tag in new.items()])
            self._tags_there |= new

    def _send_datasets(self, client: MlflowClient, run: Run) -> None:
        """Show the data sets that the tags `data.<name>` name, with their fingerprints."""
        there = {given.dataset.name for given in run.inputs.dataset_inputs} if run.inputs else set()
        given = [
            DatasetInput(Dataset(name, fingerprint[:_MAX_DIGEST], "local", json.dumps({})), [])
            for key, fingerprint in self._state.tags.items()
            if (name := key.removeprefix(DATA_TAG)) != key and name not in there
        ]
        if given:
            client.log_inputs(run.info.run_id, given)

    def _send_params(self, client: MlflowClient, run: Run) -> None:
        there = run.data.params
        missing = [
            Param(key, value) for key, value in self._state.params.items() if key not in there
        ]
        for start in range(0, len(missing), _PARAMS_PER_BATCH):
            batch = missing[start : start + _PARAMS_PER_BATCH]
            client.log_batch(run.info.run_id, params=batch)
        other = [key for key, value in self._state.params.items() if there.get(key, value) != value]
        if other:
            # MLflow takes no second value, and the first is what the run was started with.
            log_problem(self._run_dir, f"parameters keep their first value: {', '.join(other)}")

    def _send_events(self, client: MlflowClient, mlflow_run_id: str) -> None:
        state, path = self._state, events_path(self._run_dir)
        if path.exists() and state.offset > path.stat().st_size:
            state.offset = 0
        waiting: list[Metric] = []
        end = state.offset
        for event, event_end in read_from(path, state.offset):
            metrics = [] if self._is_there(client, mlflow_run_id, event) else _metrics(event)
            if waiting and len(waiting) + len(metrics) > _METRICS_PER_BATCH:
                self._send_batch(client, mlflow_run_id, waiting, end)
                waiting = []
            waiting += metrics
            end = event_end
        if end > state.offset:
            self._send_batch(client, mlflow_run_id, waiting, end)

    def _is_there(self, client: MlflowClient, mlflow_run_id: str, event: Event) -> bool:
        """Whether MLflow has a point of this kind and step, though of another time.

        A machine that was lost may have sent steps that the next one, which goes on from a copy of
        the folder, does again.
        """
        if self._there is None or not event.metrics:
            return False
        if event.kind not in self._there:
            name = _metrics(event)[0].key
            history = client.get_metric_history(mlflow_run_id, name)
            self._there[event.kind] = max((point.step for point in history), default=-1)
        return event.step <= self._there[event.kind]

    def _send_batch(
        self, client: MlflowClient, mlflow_run_id: str, metrics: Sequence[Metric], end: int
    ) -> None:
        # More than one round only for a single event with more metrics than a batch may hold.
        for start in range(0, len(metrics), _METRICS_PER_BATCH):
            client.log_batch(mlflow_run_id, metrics=metrics[start : start + _METRICS_PER_BATCH])
        self._state.offset = end
        self._state.save(self._run_dir)

    def _send_artifacts(self, client: MlflowClient, run: Run) -> None:
        for file, target in spooled_files(self._run_dir):
            digest = sha256_file(file)
            if self._state.artifacts.get(target) != digest:
                send_artifact(client, self._config, run, file, target)
                # A new mapping: the training thread may be saving the old one.
                self._state.artifacts = {**self._state.artifacts, target: digest}
                self._state.save(self._run_dir)

    def _send_status(self, client: MlflowClient, run: Run, status: str | None) -> None:
        state = self._state
        if status is not None and not state.delivered:
            client.set_terminated(run.info.run_id, status, state.ended)
            state.delivered = True
            state.save(self._run_dir)


def _metrics(event: Event) -> list[Metric]:
    prefix = _PREFIXES.get(event.kind, "")
    return [
        Metric(
            safe_name(prefix + name.replace("/", "_") if prefix else name),
            value,
            event.time,
            event.step,
        )
        for name, value in event.metrics.items()
    ]
