"""What the nodes of a running cluster are, see and know, asked of each of them.

It runs as a process of its own (`ask`), which can be ended at its deadline: where a wrong program
listens at the address, or the token differs, Ray itself tries for minutes.
"""

import json
import os
import platform
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
import ray
from ray import exceptions as ray_errors
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ecocseg.data.manifest import processed_dir, read_fingerprint
from ecocseg.errors import UserError
from pipeline.cluster.session import ClusterConfig, connect, require_listener
from pipeline.machine.cards import cards
from pipeline.machine.versions import git_revision, installed_versions
from pipeline.store.remote import require_store

_CONNECT_S, _ANSWER_S = 15.0, 60.0
_IMPORT_S = 20.0
_SERVER_S = 5
_LOOKS = 10
_HINT = "look whether a Ray head of the same version listens there, and has the same token"
_PROBE = ".ecocseg-doctor-"
_ENTRY = ("NodeID", "NodeManagerHostname", "NodeManagerAddress", "Resources", "Labels", "Alive")


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked: absolute folders, data sets by name, an MLflow server's address or None.

    `storage`: the URI of a store, by which nodes do without a shared results folder, or None.
    """

    address: str
    results: str
    data_root: str
    datasets: Sequence[str] = ()
    tracking: str | None = None
    storage: str | None = None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One node. `entry` is as in `ray.nodes()`; with `problem` it could not say the rest.

    `clock_s`: its clock minus ours in seconds, right to `clock_error_s`. `results`: what is wrong
    with the results folder there (or the store), empty when it is the one here. `datasets`: name ->
    fingerprint, None where it is not there. `tracking`: why the server cannot be reached, or empty.
    """

    entry: dict[str, Any]
    problem: str = ""
    host: str = ""
    clock_s: float = 0.0
    clock_error_s: float = 0.0
    results: str = ""
    datasets: dict[str, str | None] = field(default_factory=dict)
    tracking: str = ""
    python: str = ""
    versions: dict[str, str | None] = field(default_factory=dict)
    git: str = ""
    free_gb: float = 0.0
    memory_gb: float = 0.0
    cards: list[dict[str, Any]] = field(default_factory=list)


def ask(question: Question) -> list[Answer]:
    """Ask every live node; UserError when no cluster answers.

    Takes 15 s where something else listens at the address, and 60 s more for a silent node.
    """
    require_listener(question.address)
    command = [sys.executable, "-c", "from pipeline.cluster.survey import main; main()"]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            text, _ = process.communicate(
                json.dumps(asdict(question)), timeout=_IMPORT_S + _CONNECT_S + _ANSWER_S
            )
        except subprocess.TimeoutExpired:
            text = ""
        finally:
            _end(process)
        errors.seek(0)
        last = errors.read().strip().splitlines()[-1:]
    try:
        found = json.loads(text)
    except ValueError:
        why = last[0] if last else f"it does not answer; {_HINT}"
        raise UserError(f"cluster.address: the cluster at {question.address!r}: {why}") from None
    if "error" in found:
        raise UserError(found["error"])
    return [Answer(**answer) for answer in found["answers"]]


def _end(process: "subprocess.Popen[str]") -> None:
    if process.poll() is None:
        process.kill()
    process.wait()


def main() -> None:
    """In the process of `ask`: a question on stdin, the answers on stdout."""
    question = Question(**json.load(sys.stdin))
    # Ray prints where it likes: only the answer goes to stdout.
    out = os.dup(1)
    os.dup2(2, 1)
    try:
        answer: dict[str, Any] = {"answers": [asdict(found) for found in _survey(question)]}
    except UserError as error:
        answer = {"error": str(error)}
    os.write(out, json.dumps(answer).encode())


def _survey(question: Question) -> list[Answer]:
    late = threading.Timer(_CONNECT_S, _give_up, [question.address])
    late.daemon = True
    late.start()
    with connect(ClusterConfig(address=question.address)):
        late.cancel()
        return _nodes(question)


def _give_up(address: str) -> None:
    text = f"it does not answer within {_CONNECT_S:g} s; {_HINT}"
    print(text, file=sys.stderr, flush=True)
    os._exit(1)


def _nodes(question: Question) -> list[Answer]:
    """Ask all live nodes at the same time; each writes a file, and looks for ours."""
    entries = [node for node in ray.nodes() if node.get("Alive")]
    nonce = secrets.token_hex(8)
    folder = Path(question.results)
    folder.mkdir(parents=True, exist_ok=True)
    ours = folder / f"{_PROBE}{nonce}"
    ours.write_text(nonce)
    actors = {entry["NodeID"]: _pinned(entry["NodeID"]) for entry in entries}
    try:
        facts = {
            node_id: actor.facts.remote(asdict(question), nonce, node_id)
            for node_id, actor in actors.items()
        }
        # Outside: by an answer's own deadline all have had as long as the slowest.
        ray.wait(list(facts.values()), num_returns=len(facts), timeout=_ANSWER_S)
        return [
            _answer(question, entry, actors[entry["NodeID"]], facts[entry["NodeID"]], ours)
            for entry in entries
        ]
    finally:
        for probe in folder.glob(f"{_PROBE}{nonce}*"):
            probe.unlink(missing_ok=True)


def _pinned(node_id: str) -> Any:
    strategy = NodeAffinitySchedulingStrategy(node_id=node_id, soft=False)
    # It takes no core: a node that is full of runs answers too.
    return ray.remote(_Probe).options(num_cpus=0, scheduling_strategy=strategy).remote()


def _answer(
    question: Question, entry: dict[str, Any], actor: Any, facts: Any, ours: Path
) -> Answer:
    kept = {name: entry[name] for name in _ENTRY if name in entry}
    try:
        found = ray.get(facts, timeout=1)
        clocks = [_clock(actor) for _ in range(3)]
    except ray_errors.GetTimeoutError:
        return Answer(entry=kept, problem=f"does not answer within {_ANSWER_S:g} s")
    except ray_errors.RayError as error:
        return Answer(entry=kept, problem=_last_line(str(error)))
    away, uncertain = min(clocks, key=lambda clock: clock[1])
    theirs = ours.with_name(f"{ours.name}-{entry['NodeID']}")
    shared = question.storage is None
    if shared and not found["results"] and not _appears(theirs, entry["NodeID"]):
        found["results"] = f"what it writes into {ours.parent} is not seen here"
    return Answer(entry=kept, clock_s=away, clock_error_s=uncertain, **found)


def _clock(actor: Any) -> tuple[float, float]:
    """A node's clock minus ours, and how uncertain that is, in seconds."""
    before = time.time()
    theirs = ray.get(actor.clock.remote(), timeout=10)
    after = time.time()
    return theirs - (before + after) / 2, (after - before) / 2


def _appears(file: Path, content: str) -> bool:
    """Whether the file is seen; a network disk may show another machine's only after a while."""
    for _ in range(_LOOKS):
        with suppress(OSError):
            if file.read_text() == content:
                return True
        time.sleep(0.5)
    return False


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "unknown"


class _Probe:
    """On a node: what it is and sees."""

    def clock(self) -> float:
        return time.time()

    def facts(self, question: dict[str, Any], nonce: str, node_id: str) -> dict[str, Any]:
        asked = Question(**question)
        memory = psutil.virtual_memory().available / 1e9
        return {
            "host": platform.node(),
            "results": _unusable(asked.storage)
            if asked.storage
            else _shared(Path(asked.results), nonce, node_id),
            "datasets": {name: _fingerprint(asked.data_root, name) for name in asked.datasets},
            "tracking": _unreachable(asked.tracking) if asked.tracking else "",
            "python": platform.python_version(),
            "versions": installed_versions(),
            "git": git_revision(),
            "free_gb": _free_gb(Path(asked.results)),
            "memory_gb": memory,
            "cards": [asdict(card) for card in cards()],
        }


def _unusable(storage: str) -> str:
    try:
        require_store(storage)
    except UserError as error:
        return str(error)
    return ""


def _shared(folder: Path, nonce: str, node_id: str) -> str:
    """Empty when `folder` holds what the driver wrote and can be written; else what is wrong."""
    if not folder.is_dir():
        return f"{folder} is not there"
    name = f"{_PROBE}{nonce}"
    if not _appears(folder / name, nonce):
        return f"{folder} is another folder than the one of the same name here"
    try:
        (folder / f"{name}-{node_id}").write_text(node_id)
    except OSError as error:
        return f"{folder} cannot be written ({error.strerror})"
    return ""


def _fingerprint(root: str, name: str) -> str | None:
    try:
        return read_fingerprint(processed_dir(Path(root), name))
    except (OSError, UserError):
        return None


def _unreachable(address: str) -> str:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=_SERVER_S):
            return ""
    except (OSError, ValueError) as error:
        return str(error)


def _free_gb(folder: Path) -> float:
    try:
        return shutil.disk_usage(folder).free / 1e9
    except OSError:
        return 0.0
