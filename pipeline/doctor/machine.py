"""This machine: Python and packages against the pins, GPUs, memory, disks."""

import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
from packaging.specifiers import SpecifierSet

from pipeline.config.params import Params
from pipeline.doctor.finding import FAULT, OK, WARNING, Finding
from pipeline.doctor.space import results_need
from pipeline.machine.cards import cards
from pipeline.machine.versions import installed_versions, needed
from pipeline.planning.settings import tracking_config
from pipeline.store.paths import RESULTS

SHOWN = ("torch", "ray", "mlflow", "dvc", "hydra-core", "pandas")
_LEAST_MEMORY_GB = 4
_LEAST_GB = {"data": 5.0, "results": 1.0, "mlflow": 1.0, "temporary": 1.0}
_SETUP = "type `make setup` (or `pip install -r requirements.lock`)"


def python(params: Params) -> Iterator[Finding]:
    """The interpreter against `requires-python`."""
    wanted = SpecifierSet(needed()[0])
    version = platform.python_version()
    if wanted.contains(version, prereleases=True):
        yield Finding(OK, "python", f"{version} at {sys.executable}")
    else:
        remedy = f"make the virtual environment with a Python {wanted}"
        yield Finding(FAULT, "python", f"{version}, allowed is {wanted}", remedy)


def packages(params: Params) -> Iterator[Finding]:
    """Installed packages against the pins: those that do not fit, or one line that all do."""
    requirements = needed()[1]
    versions = installed_versions()
    wrong = False
    for requirement in requirements:
        version = versions[requirement.name]
        if version is None:
            text = f"{requirement.name} is not installed, {requirement} is needed"
        elif not requirement.specifier.contains(version, prereleases=True):
            text = f"{requirement.name} {version}, allowed is {requirement.specifier}"
        else:
            continue
        wrong = True
        yield Finding(FAULT, "packages", text, _SETUP)
    if not wrong:
        shown = ", ".join(f"{name} {versions.get(name)}" for name in SHOWN)
        yield Finding(OK, "packages", f"all {len(requirements)} fit their pins: {shown}")


def gpus(params: Params) -> Iterator[Finding]:
    """CUDA, the driver, and each card with who holds its memory."""
    import torch

    wanted = params.cluster.device
    there = cards()
    if not torch.cuda.is_available():
        text = f"torch {torch.__version__} sees none"
        if there:
            text += f", nvidia-smi lists {len(there)} (driver {there[0].driver})"
            remedy = "check CUDA_VISIBLE_DEVICES, and that this torch was built for CUDA"
            yield Finding(FAULT if wanted == "cuda" else WARNING, "gpu", text, remedy)
        elif wanted == "cuda":
            remedy = "set cluster.device to auto or cpu, or mend the driver"
            yield Finding(FAULT, "gpu", text, remedy)
        else:
            yield Finding(OK, "gpu", f"{text}; runs use the CPU")
        return
    driver = there[0].driver if there else "unknown"
    yield Finding(OK, "cuda", f"{torch.version.cuda} in torch, driver {driver}")
    for card in there:
        text = f"{card.index}: {card.describe()}"
        if card.used_gb > 0.1 * card.memory_gb:
            held = "; ".join(card.holders) or "processes that nvidia-smi does not list"
            yield Finding(WARNING, "gpu", f"{text}; held by {held}", "end them, or wait for them")
        else:
            yield Finding(OK, "gpu", text)


def memory(params: Params) -> Iterator[Finding]:
    """Cores and memory."""
    available = psutil.virtual_memory().available / 1e9
    text = f"{psutil.cpu_count()} cores, {available:.1f} GB memory available"
    if available < _LEAST_MEMORY_GB:
        yield Finding(WARNING, "machine", text, "close other programs")
    else:
        yield Finding(OK, "machine", text)


def disks(params: Params) -> Iterator[Finding]:
    """Each folder that is written: whether it can be, and its free space against the need."""
    config = tracking_config(params)
    folders = {"data": Path(params.data.root), "results": RESULTS}
    if config.enabled and config.database is not None:
        folders["mlflow"] = config.database.parent
    folders["temporary"] = Path(tempfile.gettempdir())
    for name, folder in folders.items():
        existing = folder.absolute()
        while not existing.exists():
            existing = existing.parent
        try:
            with tempfile.NamedTemporaryFile(dir=existing, prefix=".ecocseg-doctor-"):
                pass
        except OSError as error:
            remedy = "mend its permissions, or run the project from another place"
            yield Finding(FAULT, name, f"{folder}: not writable ({error.strerror})", remedy)
            continue
        free = shutil.disk_usage(existing).free / 1e9
        text = f"{folder}: writable, {free:,.0f} GB free"
        runs, need = results_need(RESULTS) if name == "results" else (0, 0.0)
        if runs:
            text += f", about {need:,.1f} GB needed by {runs} runs that are not finished"
        if free < need + _LEAST_GB[name]:
            yield Finding(WARNING, name, text, "make room, or run the project from a larger disk")
        else:
            yield Finding(OK, name, text)
