"""The code that runs here: its revision, the packages that it needs and those that it has."""

import subprocess
import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

import pipeline


def installed_versions() -> dict[str, str | None]:
    """Version of every package that the project needs; None where it is missing."""
    found: dict[str, str | None] = {}
    for requirement in needed()[1]:
        try:
            found[requirement.name] = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            found[requirement.name] = None
    return found


@cache
def needed() -> tuple[str, list[Requirement]]:
    """`requires-python` and the packages needed to run: of the checkout, or as installed."""
    file = Path(pipeline.__file__).parents[1] / "pyproject.toml"
    if file.is_file():
        project = tomllib.loads(file.read_text())["project"]
        return project["requires-python"], [Requirement(text) for text in project["dependencies"]]
    listed = [Requirement(text) for text in metadata.requires("ecocseg") or []]
    kept = [r for r in listed if r.marker is None or r.marker.evaluate({"extra": ""})]
    return metadata.metadata("ecocseg")["Requires-Python"], kept


def git_revision() -> str:
    """Commit of the checkout, with "+changes" when its tracked files differ; "unknown" outside."""
    try:
        where = {"cwd": Path(__file__).parent, "capture_output": True, "text": True, "check": True}
        revision = subprocess.run(["git", "rev-parse", "HEAD"], **where).stdout.strip()  # type: ignore[call-overload]
        changed = subprocess.run(  # type: ignore[call-overload]
            ["git", "status", "--porcelain", "--untracked-files=no", "--", "ecocseg", "pipeline"],
            **where,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{revision}+changes" if changed else str(revision)
