"""Forks work on what the process holds; results come in order, errors as they are."""

import os
import threading
from functools import partial

import pytest

from ecocseg.errors import UserError
from pipeline.report import parallel


def test_results_come_in_order_from_other_processes(monkeypatch):
    monkeypatch.setattr(parallel, "available_cores", lambda: 2)
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    held = {"unpicklable": lambda number: number**2}
    found = parallel.forked(
        [partial(lambda n: (n, held["unpicklable"](n), os.getpid()), n) for n in range(5)]
    )
    assert [(n, square) for n, square, _ in found] == [(n, n**2) for n in range(5)]
    assert os.getpid() not in {pid for *_, pid in found}


def test_what_a_task_raises_is_raised(monkeypatch):
    monkeypatch.setattr(parallel, "available_cores", lambda: 2)
    monkeypatch.setattr(threading, "active_count", lambda: 1)

    def fail():
        raise UserError("what is wrong")

    with pytest.raises(UserError, match="what is wrong"):
        parallel.forked([fail, fail])


def test_beside_threads_nothing_is_forked(monkeypatch):
    monkeypatch.setattr(threading, "active_count", lambda: 2)
    assert parallel.forked([os.getpid, os.getpid]) == [os.getpid()] * 2
