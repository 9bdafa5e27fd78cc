"""The driver's view of runs that lie in a store: records, statuses and small files, brought here.

The results folder of the driver's machine stays what tables, the live view, `ecocseg status` and
the tracking of late runs read; weights stay in the store until somebody asks for them.
"""

import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ecocseg.errors import UserError
from ecocseg.files import atomic_write
from pipeline.store.paths import DIVERGED, record_file, run_directory
from pipeline.store.push import MARKER
from pipeline.store.remote import Store, persistent
from pipeline.store.status import FILE_NAME as STATUS
from pipeline.store.status import read_status
from pipeline.store.stopping import FILE_NAME as STOP

SMOKE = "smoke"
"""What stands before the keys of smoke runs, as before their files in the results folder."""
_EVERY_S = 5.0
_WEIGHTS = (".pt",)


@contextmanager
def mirrored(
    uri: str | None, results: Path, rows: Iterable[Mapping[str, Any]], within: str = ""
) -> Iterator[None]:
    """For the length of a `with` block bring what the runs `rows` store to `results`.

    `within`: a folder of both, such as SMOKE. A run's record arrives last, so that one that has it
    here is finished and complete. Raises UserError when records cannot be brought at the end.
    """
    if uri is None:
        yield
        return
    mirror = Mirror(uri, results, [str(row["run_id"]) for row in rows], within)
    end = threading.Event()
    thread = threading.Thread(target=_follow, args=(mirror, end), name="mirror", daemon=True)
    persistent(uri, mirror.withdraw_stops)
    thread.start()
    try:
        yield
    except BaseException:
        end.set()
        thread.join(_EVERY_S)
        with suppress(OSError):
            mirror.pull(last=True)
        raise
    end.set()
    thread.join()
    persistent(uri, lambda: mirror.pull(last=True))


def pull_finished(uri: str | None, results: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Bring the records of `rows` that were finished while no driver looked on.

    Raises UserError when the store does not answer.
    """
    if uri is not None:
        mirror = Mirror(uri, results, [str(row["run_id"]) for row in rows])
        persistent(uri, mirror.pull_records, patience_s=0.0)


def fetch_weights(uri: str | None, results: Path, run_id: str, name: str) -> None:
    """Bring a weights file of a run to its folder, if it is not there and the store has it.

    Raises UserError when the store does not answer.
    """
    if uri is None or (run_directory(results, run_id) / name).is_file():
        return
    mirror = Mirror(uri, results, [run_id])
    persistent(uri, lambda: mirror.pull_files(run_id, lambda file: file == name), patience_s=0.0)


def store_mark(uri: str | None, run_id: str, mark: Path) -> None:
    """Store the mark that a smoke run has left."""
    if uri is not None:
        store, content = Store(uri, SMOKE), mark.read_bytes()
        persistent(uri, lambda: store.write(f"records/{run_id}/1.json", content))


class Mirror:
    """What `results` lacks of the runs `run_ids`; every method may raise OSError."""

    def __init__(self, uri: str, results: Path, run_ids: list[str], within: str = "") -> None:
        self.store = Store(uri, within)
        self.results, self.run_ids = Path(results) / within, set(run_ids)
        self._seen: dict[str, Any] = {}

    def pull(self, last: bool = False) -> None:
        """Bring statuses, records, and the files of runs that failed or were stopped.

        What has not changed is passed over; with `last` of settled runs only.
        """
        self._pass_on_stops()
        for key, info in self.store.keys("status").items():
            run_id, stamp = key.split("/")[1].removesuffix(".json"), (info.mtime_ns, info.size)
            if run_id not in self.run_ids:
                continue
            # The time of some stores has whole seconds.
            if self._seen.get(key) != stamp or (last and not self._settled(run_id)):
                content = self.store.read(key)
                if content is not None and self._is_newer(run_id, content):
                    if json.loads(content)["state"] in ("failed", "stopped"):
                        self.pull_files(run_id)
                    atomic_write(run_directory(self.results, run_id) / STATUS, content)
                self._seen[key] = stamp
        self.pull_records()

    def pull_records(self) -> None:
        """Bring every record that is not here, each after the other files of its run."""
        found: dict[str, str] = {}
        for key in sorted(self.store.keys("records")):
            # Of several attempts that wrote one the highest counts.
            found[key.split("/")[1]] = key
        for run_id in sorted(self.run_ids & found.keys()):
            path = record_file(self.results, run_id)
            if not path.is_file():
                self.pull_files(run_id)
                self.store.download(found[run_id], path)

    def pull_files(self, run_id: str, wanted: Any = None) -> None:
        """Bring the files of a run that `wanted` (of a name) is true for, by default small ones."""
        wanted = wanted or _is_small
        marker = self._marker(run_id)
        for name, entry in (marker or {"files": {}})["files"].items():
            if wanted(name):
                target = run_directory(self.results, run_id) / name
                self.store.download(entry["key"], target, entry["sha256"])

    def withdraw_stops(self) -> None:
        """Remove requests to stop that are no longer there."""
        for key in self.store.keys("stop"):
            run_id = key.split("/")[1]
            if run_id in self.run_ids and not self._stop_file(run_id).exists():
                self.store.delete(key)

    def _pass_on_stops(self) -> None:
        for path in (self.results / "runs").glob(f"*/{STOP}"):
            run_id = path.parent.name
            if run_id in self.run_ids and f"stop/{run_id}" not in self._seen:
                self.store.write(f"stop/{run_id}", path.read_bytes())
                self._seen[f"stop/{run_id}"] = True

    def _settled(self, run_id: str) -> bool:
        here = read_status(run_directory(self.results, run_id))
        return here is not None and here.state in ("finished", "failed", "stopped")

    def _is_newer(self, run_id: str, content: bytes) -> bool:
        """Whether it was written after the status here, which may be the driver's own word."""
        here = read_status(run_directory(self.results, run_id))
        return here is None or json.loads(content)["updated"] > here.updated

    def _marker(self, run_id: str) -> dict[str, Any] | None:
        for attempt in sorted(self.store.keys(f"runs/{run_id}", recursive=False), reverse=True):
            content = self.store.read(f"{attempt}/{MARKER}")
            if content is not None:
                found: dict[str, Any] = json.loads(content)
                return found
        return None

    def _stop_file(self, run_id: str) -> Path:
        return run_directory(self.results, run_id) / STOP


def _follow(mirror: Mirror, end: threading.Event) -> None:
    while not end.wait(_EVERY_S):
        # A store that is away is asked again: nothing waits for it but the view.
        with suppress(OSError, UserError, ValueError):
            mirror.pull()


def _is_small(name: str) -> bool:
    """No weights, and of a method's stages only their tables; the batch of a run that diverged."""
    path = Path(name)
    if path.name == DIVERGED:
        return True
    return path.suffix not in _WEIGHTS and (path.parts[0] != "stages" or path.suffix == ".csv")
