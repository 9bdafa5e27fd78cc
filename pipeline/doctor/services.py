"""What runs beside the runs: DVC's lock, the tracking store, Ray's token."""

import hashlib
import json
import os
import sqlite3
import urllib.request
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from ecocseg.errors import UserError
from pipeline.config.params import Params
from pipeline.doctor.finding import FAULT, OK, WARNING, Finding
from pipeline.planning.settings import tracking_config
from pipeline.store.remote import require_store
from pipeline.tracking import refuse_network_disk

_DVC_LOCK = Path(".dvc/tmp/rwlock")
_SERVER_S = 5
_TOKEN = Path("~/.ray/auth_token")


def dvc(params: Params) -> Iterator[Finding]:
    """DVC's table of locks, which a killed `dvc` may leave empty: no later one starts then."""
    if not Path(".dvc").is_dir():
        yield Finding(WARNING, "dvc", "no DVC project in this folder", "type `dvc init` for one")
        return
    try:
        json.loads(_DVC_LOCK.read_text())
    except FileNotFoundError:
        pass
    except (OSError, ValueError):
        text = f"{_DVC_LOCK} is corrupted: a `dvc` was killed while it wrote it"
        yield Finding(FAULT, "dvc", text, f"rm {_DVC_LOCK}")
        return
    yield Finding(OK, "dvc", f"{version('dvc')}, its locks can be read")


def tracking(params: Params) -> Iterator[Finding]:
    """The server answers and has our version, or the SQLite file can be used where it lies."""
    config = tracking_config(params)
    if not config.enabled:
        yield Finding(WARNING, "tracking", "switched off", "set tracking.enabled: true")
        return
    if config.database is None:
        yield server(str(config.uri))
        return
    try:
        refuse_network_disk(config)
        if config.database.is_file():
            with sqlite3.connect(f"file:{config.database}?mode=ro", uri=True) as database:
                database.execute("select count(*) from runs")
    except (UserError, sqlite3.Error) as error:
        text, _, remedy = str(error).partition("; ")
        yield Finding(FAULT, "tracking", text, remedy or f"move {config.database} away")
        return
    if params.cluster.address == "local":
        yield Finding(OK, "tracking", f"SQLite at {config.database}")
    else:
        text = f"SQLite at {config.database}, which serves one machine; there may be several"
        yield Finding(WARNING, "tracking", text, "start `mlflow server` and set tracking.uri")


def server(uri: str) -> Finding:
    """Whether an MLflow server answers at `uri`, and is of our version."""
    try:
        _get(f"{uri}/health")
        theirs = _get(f"{uri}/version").strip()
    except (OSError, ValueError) as error:
        text = f"{uri} does not answer ({error}); runs go on and are sent later"
        return Finding(FAULT, "tracking", text, "start the server, or mend tracking.uri")
    ours = version("mlflow")
    if theirs != ours:
        text = f"{uri} answers with MLflow {theirs:.20}, here it is {ours}"
        return Finding(WARNING, "tracking", text, f"install mlflow=={ours} there")
    return Finding(OK, "tracking", f"{uri} answers, MLflow {theirs}")


def storage(params: Params) -> Iterator[Finding]:
    """The store of `cluster.storage`, if there is one: written to, and read from here."""
    uri = params.cluster.storage
    if uri is None:
        return
    try:
        require_store(uri)
    except UserError as error:
        text, _, remedy = str(error).partition("; ")
        yield Finding(FAULT, "storage", text, remedy)
        return
    yield Finding(OK, "storage", f"{uri} can be written and read")


def token(params: Params) -> Iterator[Finding]:
    """Ray's token, which all hosts of a cluster must share; nothing for a local one."""
    if params.cluster.address == "local":
        return
    if os.environ.get("RAY_AUTH_TOKEN"):
        value, where = os.environ["RAY_AUTH_TOKEN"], "RAY_AUTH_TOKEN"
    else:
        path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or _TOKEN).expanduser()
        where = str(path)
        try:
            value = path.read_text().strip()
        except OSError as error:
            remedy = f"copy the head's {_TOKEN} to this host, or set RAY_AUTH_TOKEN_PATH"
            text = f"{path}: {error.strerror}; a cluster that asks for a token refuses us"
            yield Finding(WARNING, "token", text, remedy)
            return
        if path.stat().st_mode & 0o077:
            text = f"{path} can be read by other users, who can then use the cluster"
            yield Finding(WARNING, "token", text, f"chmod 600 {path}")
    digest = hashlib.sha256(value.encode()).hexdigest()[:8]
    yield Finding(OK, "token", f"{where}, fingerprint {digest}: all hosts must have the same")


def _get(address: str) -> str:
    with urllib.request.urlopen(address, timeout=_SERVER_S) as answer:
        return str(answer.read(1000).decode(errors="replace"))
