"""The machines that runs can go to: what they offer, and whether each sees and knows the same."""

import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from ecocseg.data.manifest import processed_dir, read_fingerprint
from ecocseg.errors import DataError, UserError
from pipeline.cluster.request import resources
from pipeline.cluster.resources import Node, impossible
from pipeline.config.params import Params
from pipeline.doctor.data import unfinished
from pipeline.doctor.finding import FAULT, OK, WARNING, Finding
from pipeline.machine.gpus import gpu_labels
from pipeline.machine.versions import git_revision, installed_versions
from pipeline.planning.plan import datasets_of
from pipeline.planning.settings import tracking_config
from pipeline.store.paths import PLAN_FILE, RESULTS

_MOST_CLOCK_S = 2.0
_SHOWN = 3
_SAME_CODE = "bring it to the same state (`git pull`, `make setup`)"


def nodes(params: Params) -> Iterator[Finding]:
    """What the cluster offers, what is wrong with a node, and whether the planned runs fit."""
    if params.cluster.address == "local":
        yield from _local(params)
        return
    from pipeline.cluster.survey import Answer, Question, ask

    config = tracking_config(params)
    datasets = {dataset.name: _fingerprint(params, dataset.name) for dataset in datasets_of(params)}
    question = Question(
        address=params.cluster.address,
        results=str(RESULTS.absolute()),
        data_root=str(Path(params.data.root).absolute()),
        datasets=list(datasets),
        tracking=str(config.uri) if config.enabled and config.database is None else None,
        storage=params.cluster.storage,
    )
    try:
        answers: list[Answer] = ask(question)
    except UserError as error:
        text, _, remedy = str(error).partition("; ")
        default = "start one with `ray start --head`, or set cluster.address: local"
        yield Finding(FAULT, "cluster", text, remedy or default)
        return
    found = [Node.of(answer.entry) for answer in answers]
    total = f"{len(found)} nodes, {sum(n.cpus for n in found):g} CPU, {sum(n.gpus for n in found)}"
    yield Finding(OK, "cluster", f"{params.cluster.address}: {total} GPU")
    ours = _Ours(versions=installed_versions(), git=git_revision(), datasets=datasets)
    for node, answer in zip(found, answers, strict=True):
        wrong = list(_wrong(node, answer, ours))
        yield from wrong
        if not wrong:
            yield Finding(OK, "node", _describe(node, answer))
    yield from _placed(params, found)


def _fingerprint(params: Params, name: str) -> str | None:
    try:
        return read_fingerprint(processed_dir(Path(params.data.root), name))
    except DataError:
        return None


def _local(params: Params) -> Iterator[Finding]:
    import torch

    try:
        labels = gpu_labels()
    except UserError as error:
        text, _, remedy = str(error).partition("; ")
        yield Finding(FAULT, "cluster", text, remedy)
        return
    node = Node(
        id="local",
        name=platform.node(),
        cpus=float(psutil.cpu_count() or 1),
        gpus=torch.cuda.device_count(),
        memory_mb=psutil.virtual_memory().available / 2**20,
        labels=labels,
    )
    yield Finding(OK, "cluster", f"local: {node.describe()}")
    yield from _placed(params, [node])


def _placed(params: Params, found: Sequence[Node]) -> Iterator[Finding]:
    """Whether each unfinished run of the plan could be placed on the nodes while they are idle."""
    if not PLAN_FILE.is_file():
        return
    try:
        rows = unfinished()
    except UserError:
        # Said by the check of the plan.
        return
    on_gpu = params.cluster.device == "cuda" or (
        params.cluster.device == "auto" and any(node.gpus for node in found)
    )
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if reason := impossible(resources(params, row, on_gpu), found):
            reasons.setdefault(reason, []).append(row["run_id"])
    for reason, run_ids in reasons.items():
        shown = ", ".join(run_ids[:_SHOWN]) + (", ..." if len(run_ids) > _SHOWN else "")
        asked, _, rest = reason.partition("; available: ")
        available, _, remedy = rest.partition(". ")
        text, remedy = f"{asked}; available: {available}", remedy[:1].lower() + remedy[1:]
        count = f"{len(run_ids)} of {len(rows)} runs to do"
        yield Finding(FAULT, "placing", f"{count} ({shown}): {text}", remedy)
    if rows and not reasons:
        yield Finding(OK, "placing", f"{len(rows)} runs to do, a node can take each of them")


@dataclass(frozen=True, kw_only=True)
class _Ours:
    """What every node must have as this machine has it."""

    versions: dict[str, str | None]
    git: str
    datasets: dict[str, str | None]
    python: str = field(default_factory=platform.python_version)


def _wrong(node: Node, answer: Any, ours: _Ours) -> Iterator[Finding]:
    """What is to be mended on one node."""

    def fault(text: str, remedy: str, state: str = FAULT) -> Finding:
        return Finding(state, "node", f"{node.name}: {text}", remedy)

    if answer.problem:
        remedy = "look at `ray status`, and that the project is installed there in the same place"
        yield fault(answer.problem, remedy)
        return
    if answer.results:
        text, _, remedy = answer.results.partition("; ")
        shared = "mount the same folder at the same path on every node, or set cluster.storage"
        yield fault(text, remedy or shared)
    for name, digest in ours.datasets.items():
        if digest is not None and answer.datasets.get(name) != digest:
            there = "another one" if answer.datasets.get(name) else "not there"
            remedy = "mount the same data.root there, or copy data/processed"
            yield fault(f"the data set {name} is {there}", remedy)
    if abs(answer.clock_s) > _MOST_CLOCK_S + answer.clock_error_s:
        side = "ahead" if answer.clock_s > 0 else "behind"
        text = f"its clock is {abs(answer.clock_s):.1f} s {side} of ours"
        yield fault(text, "switch on NTP on all nodes (`timedatectl set-ntp true`)", WARNING)
    differing = [
        f"{name} {answer.versions.get(name)} instead of {version}"
        for name, version in ours.versions.items()
        if answer.versions.get(name) != version
    ]
    if answer.python.split(".")[:2] != ours.python.split(".")[:2]:
        differing.insert(0, f"Python {answer.python} instead of {ours.python}")
    if differing:
        yield fault("; ".join(differing), "type `make setup` there")
    if answer.git != ours.git:
        text = f"its code is {_short(answer.git)}, here it is {_short(ours.git)}"
        yield fault(text, _SAME_CODE)
    if answer.tracking:
        remedy = "let the server listen to other machines (`mlflow server --host 0.0.0.0`)"
        yield fault(f"does not reach the MLflow server ({answer.tracking})", remedy, WARNING)
    if node.gpus and node.gpu_memory_gb is None:
        remedy = 'start it with --labels "$(ecocseg labels)"'
        yield fault("has GPUs and no label of their kind and memory", remedy, WARNING)
    for card in answer.cards:
        if card["used_gb"] > 0.1 * card["memory_gb"]:
            held = "; ".join(card["holders"]) or "processes that nvidia-smi does not list"
            text = f"{card['used_gb']:.1f} of {card['memory_gb']:.1f} GB of GPU {card['index']}"
            yield fault(f"{text} held by {held}", "end them, or wait for them", WARNING)


def _short(revision: str) -> str:
    commit, _, changes = revision.partition("+")
    return commit[:10] + (f" with {changes}" if changes else "")


def _describe(node: Node, answer: Any) -> str:
    labels = {k: v for k, v in node.labels.items() if not k.startswith("ray.io/")}
    parts = [f"{node.cpus:g} CPU", f"{node.gpus} GPU", f"{node.memory_mb / 1000:.0f} GB memory"]
    parts += [f"{key}={value}" for key, value in sorted(labels.items())]
    same = f"same folders, data and code; clock {answer.clock_s:+.1f} s"
    return f"{node.name}: {', '.join(parts)}; {same}; {answer.free_gb:,.0f} GB free"
