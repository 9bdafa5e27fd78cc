"""A run in a store, without the training: the folder of a node, and what lies in it."""

import os

from pipeline.store import push as stored
from pipeline.store.push import StoredRun

RUN = "run-1"


def made(folder):
    folder.mkdir()
    return f"file://{folder}"


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
