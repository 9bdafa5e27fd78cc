"""The connection to Ray: a cluster of its own on this machine, or one that is running already."""

import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import ray

from ecocseg.errors import ConfigError, UserError
from pipeline.cluster.head import watch_head
from pipeline.machine.gpus import gpu_labels

_MEGABYTE = 1 << 20
_LONGEST_TEMP = 40  # a socket's path may have 107 characters, and Ray appends about 65
_CONNECT_S = 10.0
_DAY_S = 86_400


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """Where runs are executed.

    `address`: `local` starts a cluster of this process's own and stops it at the end; `auto` joins
    the one running on this machine; `host:port` the one with that head.
    `num_cpus` (cores to offer, null = all) and `object_store_mb` (shared memory, MB) hold for
    `local` only. Runs exchange files, not objects: the smallest store that Ray allows is enough.
    """

    address: str = "local"
    num_cpus: int | None = None
    object_store_mb: int = 80

    def __post_init__(self) -> None:
        if self.address not in ("local", "auto") and ":" not in self.address:
            raise ConfigError(
                f"cluster.address: got {self.address!r}, allowed local, auto or host:port"
            )
        if self.address.startswith("ray://"):
            raise ConfigError(
                f"cluster.address: got {self.address!r}, allowed local, auto or host:port; run "
                "this on a machine of the cluster and give the head's port (6379), not that of "
                "Ray's client"
            )
        if self.num_cpus is not None and self.num_cpus < 1:
            raise ConfigError(
                f"cluster.num_cpus: got {self.num_cpus}, allowed 1 or more, or null for all cores"
            )
        if self.object_store_mb < 80:
            raise ConfigError(
                f"cluster.object_store_mb: got {self.object_store_mb}, allowed 80 (MB) or more"
            )


@contextmanager
def connect(config: ClusterConfig) -> Iterator[None]:
    """Connect for the length of a `with` block; leaves no process behind, Ctrl-C included.

    SIGTERM inside the block arrives as KeyboardInterrupt, so that it ends like Ctrl-C. Raises
    UserError when no cluster answers.
    """
    session = None
    stop = threading.Event()
    if config.address == "local":
        session = _start_local(config)
    else:
        _join(config.address)
        watch_head(ray.get_runtime_context().gcs_address, stop)
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _interrupt) if in_main else None
    try:
        yield
    finally:
        stop.set()
        # A second Ctrl-C or SIGTERM must not cut this short: it would leave Ray's processes behind.
        if in_main:
            interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            ray.shutdown()
        finally:
            if in_main:
                signal.signal(signal.SIGINT, interrupt)
                signal.signal(signal.SIGTERM, before)
            if session is not None:
                shutil.rmtree(session, ignore_errors=True)


def _start_local(config: ClusterConfig) -> Path:
    temporary = _temporary_folder()
    _sweep(temporary)
    _require_token()
    # "local" makes Ray pass over RAY_ADDRESS and any address file that another cluster left.
    try:
        context = _initialise(
            address="local",
            num_cpus=config.num_cpus,
            labels=_own_labels(),
            object_store_memory=config.object_store_mb * _MEGABYTE,
            include_dashboard=False,
            _temp_dir=str(temporary),
        )
    except (OSError, RuntimeError, ValueError) as error:
        ray.shutdown()
        raise UserError(
            f"cluster.address: Ray does not start on this machine ({error}); it needs about 1 GB "
            f"of memory and room in {temporary} (RAY_TMPDIR names another folder); `ecocseg "
            "doctor` says what there is"
        ) from error
    return Path(context.address_info["session_dir"])


def _own_labels() -> dict[str, str]:
    """Of this machine's GPUs; none where they differ, so that nothing is said of all of them."""
    try:
        return gpu_labels()
    except UserError:
        return {}


def _join(address: str) -> None:
    require_listener(address)
    try:
        _initialise(address=address)
    except (OSError, RuntimeError, ValueError) as error:
        raise _no_cluster(address, error) from error


def require_listener(address: str) -> None:
    """Raise UserError when nothing listens at `address`, which Ray itself tries for minutes."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
    except (OSError, ValueError) as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: Exception) -> UserError:
    return UserError(
        f"cluster.address: no usable Ray cluster at {address!r} ({error}); start one with "
        "`ray start --head`, give its host:port, or set cluster.address to local"
    )


def _initialise(**arguments: Any) -> Any:
    context = ray.init(log_to_driver=False, logging_level=logging.ERROR, **arguments)
    # Ray prints the log of every lost raylet on the driver's terminal, across the live table,
    # whatever `log_to_driver` says. The loss itself is reported by the grid.
    ray._private.worker._worker_logs_enabled = False
    return context


def _temporary_folder() -> Path:
    """A short folder of this user's own: Ray makes its own ones writable for everybody."""
    base = os.environ.get("RAY_TMPDIR", tempfile.gettempdir())
    if len(base) > _LONGEST_TEMP - 20:
        base = "/tmp"
    private = Path(base) / f"ecocseg-{os.getuid()}"
    private.mkdir(mode=0o700, parents=True, exist_ok=True)
    if private.stat().st_uid != os.getuid():
        raise UserError(f"{private}: belongs to another user; remove it, or set RAY_TMPDIR")
    return private / "ray"


def _sweep(temporary: Path) -> None:
    """Remove the logs of sessions whose driver was killed, a day after it."""
    for session in temporary.glob("session_2*"):
        driver = session.name.rpartition("_")[2]
        with suppress(OSError, ValueError):
            if not psutil.pid_exists(int(driver)) and (
                session.stat().st_mtime < time.time() - _DAY_S
            ):
                shutil.rmtree(session, ignore_errors=True)


def _require_token() -> None:
    """Ray keeps its token in ~/.ray; where home cannot be written, use one for this process."""
    given = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys()
    home = Path(os.path.expanduser("~"))
    if not given and not (home / ".ray" / "auth_token").exists() and not os.access(home, os.W_OK):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _interrupt(number: int, frame: FrameType | None) -> None:
    # Once: the launcher's watch goes on asking while the grid ends.
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt(signal.Signals(number).name)


def has_gpu() -> bool:
    """Whether the connected cluster has a GPU."""
    return ray.cluster_resources().get("GPU", 0) > 0
