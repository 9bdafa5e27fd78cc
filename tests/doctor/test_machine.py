import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import pipeline.doctor.machine as machine
from pipeline.doctor import services
from pipeline.doctor.finding import FAULT, OK, WARNING
from pipeline.machine.versions import installed_versions, needed


def states(findings):
    return [finding.state for finding in findings]


def pins(monkeypatch, python: str, *texts: str) -> None:
    found = python, [Requirement(text) for text in texts]
    monkeypatch.setattr("pipeline.machine.versions.needed", lambda: found)
    monkeypatch.setattr(machine, "needed", lambda: found)


def test_the_pins_are_those_of_the_project() -> None:
    python, requirements = needed()
    assert python == ">=3.11"
    assert str(next(r.specifier for r in requirements if r.name == "ray")).startswith("==")
    assert installed_versions()["ray"] == version("ray")


def test_what_does_not_fit_a_pin_is_named(params, monkeypatch) -> None:
    assert states([*machine.python(params()), *machine.packages(params())]) == [OK, OK]
    pins(monkeypatch, ">=3.99", "psutil>=1", "pyyaml==0.1", "no-such-package>=2")
    (python,) = machine.python(params())
    assert (python.state, python.remedy) == (
        FAULT,
        "make the virtual environment with a Python >=3.99",
    )
    old, gone = machine.packages(params())
    assert old.text == f"pyyaml {version('pyyaml')}, allowed is ==0.1"
    assert gone.text == "no-such-package is not installed, no-such-package>=2 is needed"
    assert "make setup" in old.remedy


def test_a_gpu_that_is_wanted_and_not_there_is_a_fault(params) -> None:
    assert states(machine.gpus(params(cluster__device="cpu"))) == [OK]
    (finding,) = machine.gpus(params(cluster__device="cuda"))
    assert finding.state == FAULT
    assert "set cluster.device to auto or cpu" in finding.remedy


def test_disks_are_written_and_their_room_is_compared_with_the_need(params, monkeypatch) -> None:
    found = list(machine.disks(params()))
    assert [f.subject for f in found] == ["data", "results", "mlflow", "temporary"]
    assert set(states(found)) == {OK}
    assert not Path("results").exists()
    monkeypatch.setitem(machine._LEAST_GB, "data", 1e9)
    short = next(machine.disks(params()))
    assert (short.subject, short.state) == ("data", WARNING)
    # A folder that even root cannot write into.
    (denied,) = [f for f in machine.disks(params(data__root="/proc/data")) if f.subject == "data"]
    assert denied.state == FAULT
    assert "not writable" in denied.text


@pytest.mark.parametrize(
    ("content", "state"), [(None, OK), ("{}", OK), ("", FAULT), ('{"a": ', FAULT)]
)
def test_a_lock_file_that_a_killed_dvc_left_is_a_fault(params, content, state) -> None:
    lock = Path(".dvc/tmp/rwlock")
    if content is not None:
        lock.write_text(content)
    (finding,) = services.dvc(params())
    assert finding.state == state
    if state == FAULT:
        assert finding.remedy == "rm .dvc/tmp/rwlock"
        os.system(finding.remedy)
        assert states(services.dvc(params())) == [OK]


@pytest.fixture
def mlflow_like():
    """A server that answers as MLflow does: (address, the version that it gives)."""
    answers = {"/health": "OK", "/version": version("mlflow")}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answers[self.path].encode())

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", answers
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_server_answers_with_our_version(params, mlflow_like) -> None:
    address, answers = mlflow_like
    assert states(services.tracking(params(tracking__uri=address))) == [OK]
    answers["/version"] = "1.0"
    (finding,) = services.tracking(params(tracking__uri=address))
    assert (finding.state, finding.remedy) == (
        WARNING,
        f"install mlflow=={version('mlflow')} there",
    )


def test_no_server_and_no_store_are_told_apart(params, monkeypatch) -> None:
    (gone,) = services.tracking(params(tracking__uri="http://127.0.0.1:9"))
    assert (gone.state, gone.remedy) == (FAULT, "start the server, or mend tracking.uri")
    assert states(services.tracking(params(tracking__enabled=False))) == [WARNING]
    assert states(services.tracking(params())) == [OK]
    assert states(services.tracking(params(cluster__address="auto"))) == [WARNING]
    monkeypatch.setattr("pipeline.tracking.config.network_file_system", lambda *_: "nfs4")
    (refused,) = services.tracking(params())
    assert refused.state == FAULT
    assert "network disk (nfs4)" in refused.text
    assert "mlflow server" in refused.remedy


def test_a_store_is_written_and_read(params, tmp_path) -> None:
    assert list(services.storage(params())) == []
    (tmp_path / "store").mkdir()
    assert states(services.storage(params(cluster__storage=f"file://{tmp_path}/store"))) == [OK]
    (gone,) = services.storage(params(cluster__storage=f"file://{tmp_path}/none"))
    assert gone.state == FAULT
    assert gone.remedy.startswith("start the store")


def test_the_token_is_compared_by_its_fingerprint(params, tmp_path, monkeypatch) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    assert list(services.token(params())) == []
    file = tmp_path / "token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    shared = params(cluster__address="head:6379")
    assert states(services.token(shared)) == [WARNING]
    file.write_text("secret\n")
    file.chmod(0o644)
    open_to_all, found = services.token(shared)
    assert (open_to_all.state, open_to_all.remedy) == (WARNING, f"chmod 600 {file}")
    assert "secret" not in found.text
    file.chmod(0o600)
    assert states(services.token(shared)) == [OK]
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    (same,) = services.token(shared)
    assert same.text.partition(", ")[2] == found.text.partition(", ")[2]
