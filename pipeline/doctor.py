"""`ecocseg doctor`: what this machine has and lacks, each line with its remedy."""

import platform
import shutil
import sqlite3
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psutil

from ecocseg.data.manifest import DATASET_FILE, processed_dir
from ecocseg.errors import UserError
from pipeline.params import Params
from pipeline.planning import datasets_of
from pipeline.stages.train import RESULTS, tracking_config
from pipeline.tracking import refuse_network_disk

OK, WARNING, FAULT = "ok", "warning", "fault"
_PACKAGES = ("torch", "torchvision", "ray", "mlflow", "dvc", "hydra-core", "pandas")
_LEAST_DISK_GB, _LEAST_MEMORY_GB = 5, 4


@dataclass(frozen=True)
class Finding:
    """One line: `state` is ok, warning or fault; what was found, and how to mend it."""

    state: str
    subject: str
    text: str


def examine(params: Params) -> int:
    """Print every finding; 1 when one of them is a fault, else 0."""
    checks: list[Callable[[Params], Iterator[Finding]]] = [
        _versions,
        _devices,
        _machine,
        _storage,
        _tracking,
        _data,
    ]
    worst = 0
    for check in checks:
        for finding in check(params):
            print(f"{finding.state:8} {finding.subject:10} {finding.text}")
            worst |= finding.state == FAULT
    return int(worst)


def _versions(params: Params) -> Iterator[Finding]:
    good = sys.version_info >= (3, 11)
    text = f"{platform.python_version()}{'' if good else '; 3.11 or newer is needed'}"
    yield Finding(OK if good else FAULT, "python", text)
    yield Finding(OK, "packages", ", ".join(f"{name} {version(name)}" for name in _PACKAGES))


def _devices(params: Params) -> Iterator[Finding]:
    import torch

    wanted = params.cluster.device
    if not torch.cuda.is_available():
        state = FAULT if wanted == "cuda" else OK
        hint = "; set cluster.device: cpu, or mend the driver" if wanted == "cuda" else ""
        yield Finding(state, "gpu", f"torch {torch.__version__} sees none{hint}")
        return
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        busy = free < 0.9 * total
        text = f"{index}: {torch.cuda.get_device_name(index)}, {free / 1e9:.1f} of "
        text += f"{total / 1e9:.1f} GB free" + ("; see `nvidia-smi` for who holds it" * busy)
        yield Finding(WARNING if busy else OK, "gpu", text)


def _machine(params: Params) -> Iterator[Finding]:
    available = psutil.virtual_memory().available / 1e9
    short = available < _LEAST_MEMORY_GB
    text = f"{psutil.cpu_count()} cores, {available:.1f} GB memory available"
    yield Finding(WARNING if short else OK, "machine", text + "; close other programs" * short)


def _storage(params: Params) -> Iterator[Finding]:
    for name, folder in (("data", Path(params.data.root)), ("results", RESULTS)):
        existing = folder.absolute()
        while not existing.exists():
            existing = existing.parent
        probe = existing / ".ecocseg-doctor"
        try:
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            yield Finding(FAULT, name, f"{folder}: not writable ({error.strerror})")
            continue
        free = shutil.disk_usage(existing).free / 1e9
        short = free < _LEAST_DISK_GB
        text = f"{folder}: writable, {free:.0f} GB free" + "; make room" * short
        yield Finding(WARNING if short else OK, name, text)


def _tracking(params: Params) -> Iterator[Finding]:
    config = tracking_config(params)
    if not config.enabled:
        yield Finding(WARNING, "tracking", "switched off (tracking.enabled)")
        return
    if config.database is None:
        try:
            with urllib.request.urlopen(f"{config.uri}/health", timeout=5):
                yield Finding(OK, "tracking", f"{config.uri} answers")
        except (OSError, ValueError) as error:
            yield Finding(
                FAULT,
                "tracking",
                f"{config.uri} does not answer ({error}); start the server, or mend tracking.uri",
            )
        return
    try:
        refuse_network_disk(config)
        if config.database.is_file():
            with sqlite3.connect(f"file:{config.database}?mode=ro", uri=True) as database:
                database.execute("select count(*) from runs")
        yield Finding(OK, "tracking", f"SQLite at {config.database}")
    except (UserError, sqlite3.Error) as error:
        yield Finding(FAULT, "tracking", str(error))


def _data(params: Params) -> Iterator[Finding]:
    for dataset in datasets_of(params):
        folder = processed_dir(Path(params.data.root), dataset.name)
        if (folder / DATASET_FILE).is_file():
            yield Finding(OK, "data set", f"{dataset.name}: prepared in {folder}")
        else:
            yield Finding(
                WARNING, "data set", f"{dataset.name}: not prepared; run `dvc repro preprocess`"
            )
