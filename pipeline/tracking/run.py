"""The tracker of one run, used by the training loop: no call of it raises, none waits long."""

import threading
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pipeline.store.events import EventLog
from pipeline.store.stopping import Stopped
from pipeline.tracking.config import TrackingConfig
from pipeline.tracking.spool import (
    SPEC_NAME,
    STATUSES,
    RunState,
    events_path,
    flatten_params,
    log_problem,
    now_ms,
    spool_file,
    spool_json,
    spool_record,
    take_tracking_lock,
)
from pipeline.tracking.system import SystemSampler

if TYPE_CHECKING:
    from pipeline.tracking.sender import Sender

_SEND_EVERY_S = 2.0
_FIRST_RETRY_S = 5.0
_LAST_RETRY_S = 60.0
# How long the end of a run waits for the store, and as a share of the time that it took; what is
# left then goes on being sent while the process lives, and at last with `replay`.
_WAIT_LOCAL_S, _WAIT_SERVER_S, _WAIT_FAILING_S = 10.0, 2.0, 1.0
_WAIT_SHARE = 0.005
_SENDING: "weakref.WeakSet[threading.Thread]" = weakref.WeakSet()


def wait_for_sending(wait_s: float = _WAIT_LOCAL_S) -> None:
    """Give the runs that ended in this process up to `wait_s` seconds to send what is left.

    For a process that ends now; one that trains the next run has them sent beside that.
    """
    deadline = time.monotonic() + wait_s
    for thread in list(_SENDING):
        thread.join(max(0.0, deadline - time.monotonic()))


class RunTracker:
    """Tracks one run into MLflow from a thread of its own.

    Use it as a context manager: an exception ends the run as FAILED (KeyboardInterrupt,
    SystemExit and Stopped as KILLED). `events` is the run's event log; what is appended there is
    sent after the next `sync`. Whatever goes wrong is noted in `run_dir/tracking.log`, and
    everything waits in `run_dir` for a later `sync`, a resumed run, or `replay`.

    tags: texts shown beside the run; `git` (a commit) and `data.<name>` (the fingerprint of a data
    set) are shown as source and data sets too. params: the resolved specification, nested or not.
    name: what the run is called on MLflow's page, by default "<cell>, seed <seed>" from the tags.
    """

    def __init__(
        self,
        config: TrackingConfig,
        run_dir: Path,
        run_id: str,
        experiment: str,
        tags: Mapping[str, str],
        params: Mapping[str, Any],
        name: str | None = None,
    ):
        self.run_dir = Path(run_dir)
        self.events = EventLog(events_path(self.run_dir))
        self._config = config
        self._begun = time.monotonic()
        self._wake = threading.Condition()
        self._pending = True
        self._closing = False
        self._failures = 0
        self._sent_once = False
        self._thread: threading.Thread | None = None
        self._sampler: SystemSampler | None = None
        self._state: RunState | None = None
        if not config.enabled:
            return
        try:
            self._state = self._begin(run_id, experiment, tags, params, name)
            if config.system_every_s > 0:
                self._sampler = SystemSampler(self.events, config.system_every_s)
            self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
            self._thread.start()
            _SENDING.add(self._thread)
        except Exception as error:
            log_problem(self.run_dir, f"tracking could not start: {error}")

    def sync(self) -> None:
        """Have everything sent that waits; returns at once."""
        with self._wake:
            self._pending = True
            self._wake.notify()

    def artifact(self, path: Path, folder: str = "") -> None:
        """Track the file at `path` as it is now, shown in `folder` (with / for folders in it)."""
        self._try(lambda: spool_file(self.run_dir, path, folder))

    def document(self, name: str, content: Any, folder: str = "") -> None:
        """Track `content` as the JSON file `name`."""
        self._try(lambda: spool_json(self.run_dir, name, content, folder))

    def tag(self, key: str, value: str) -> None:
        """Set a tag that was not known at the start."""
        if self._state is not None:
            self._state.tags = {**self._state.tags, key: value}
            self.sync()

    def record(self, record: Mapping[str, Any]) -> None:
        """Track a finished run's record: `iou/<class>`, means, confusion matrix, record.json."""
        self._try(lambda: spool_record(self.run_dir, self.events, record))

    def finish(self, status: str = "FINISHED", wait_s: float | None = None) -> bool:
        """Close the run with `status`; True when the store has everything.

        Waits for that at most `wait_s` seconds; by default 10 for SQLite, 2 for a server, 1 for a
        store that has been failing, and never more than 0.5 % of the time since the run began. A
        second call changes nothing and does not wait.
        """
        if self._state is None or self._thread is None:
            self.events.close()
            return not self._config.enabled
        if not self._closing:
            try:
                self._end(status)
            except Exception as error:
                log_problem(self.run_dir, f"the end could not be noted: {error}")
            if wait_s is None:
                wait_s = _WAIT_LOCAL_S if self._config.database else _WAIT_SERVER_S
                wait_s = _WAIT_FAILING_S if self._failures else wait_s
                wait_s = min(wait_s, _WAIT_SHARE * (time.monotonic() - self._begun))
            self._thread.join(wait_s)
        return self._state.delivered

    def __enter__(self) -> "RunTracker":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.finish("FINISHED")
        else:
            killed = isinstance(error, Stopped) or not isinstance(error, Exception)
            self.finish("KILLED" if killed else "FAILED")

    def _begin(
        self,
        run_id: str,
        experiment: str,
        tags: Mapping[str, str],
        params: Mapping[str, Any],
        name: str | None,
    ) -> RunState:
        spool_json(self.run_dir, SPEC_NAME, params)
        earlier = RunState.load(self.run_dir)
        if earlier is not None and earlier.run_id != run_id:
            earlier = None
        default = (
            f"{tags['cell']}, seed {tags['seed']}" if {"cell", "seed"} <= set(tags) else run_id
        )
        state = RunState(
            run_id=run_id,
            experiment=experiment,
            name=name or default,
            started=earlier.started if earlier else now_ms(),
            tags={key: str(value) for key, value in tags.items()},
            params=flatten_params(params),
        )
        if earlier is not None:
            state.mlflow_run_id, state.offset = earlier.mlflow_run_id, earlier.offset
            state.artifacts = earlier.artifacts
        state.save(self.run_dir)
        return state

    def _end(self, status: str) -> None:
        assert self._state is not None
        if status.upper() not in STATUSES:
            log_problem(self.run_dir, f"status {status!r} is none of {', '.join(STATUSES)}")
        if self._sampler is not None:
            self._sampler.stop()
        self.events.close()
        self._state.status = status.upper() if status.upper() in STATUSES else "FAILED"
        self._state.ended = now_ms()
        try:
            self._state.save(self.run_dir)
        finally:
            with self._wake:
                self._closing = True
                self._wake.notify()

    def _try(self, action: Any) -> None:
        if self._state is None:
            return
        try:
            action()
        except Exception as error:
            log_problem(self.run_dir, f"not tracked: {error}")
        self.sync()

    def _work(self) -> None:
        lock, sender = None, None
        try:
            while True:
                self._wait()
                # Read before sending: what is queued from here on belongs to the next round.
                closing, self._pending = self._closing, False
                try:
                    lock = lock or take_tracking_lock(self.run_dir)
                    if lock is None:
                        raise BlockingIOError("another process still tracks this run")
                    sender = sender or self._new_sender()
                    sender.send()
                    self._failures = 0
                except Exception as error:
                    self._failures += 1
                    self._pending = True
                    log_problem(self.run_dir, f"waits to be sent: {error}")
                if closing:
                    return
        finally:
            # Kept until here, so that others can tell a run that goes on from a dead one.
            if lock is not None:
                lock.close()

    def _wait(self) -> None:
        with self._wake:
            if self._failures:
                pause = min(_FIRST_RETRY_S * 2 ** min(self._failures - 1, 10), _LAST_RETRY_S)
            else:
                pause = _SEND_EVERY_S if self._sent_once else 0.0
            self._wake.wait_for(lambda: self._closing, timeout=pause)
            self._wake.wait_for(lambda: self._closing or self._pending)
            self._sent_once = True

    def _new_sender(self) -> "Sender":
        # Imports mlflow: seconds that the training thread must not spend.
        from pipeline.tracking.sender import Sender

        assert self._state is not None
        return Sender(self._config, self.run_dir, self._state)
