"""Ends this command in words when the head of its Ray cluster is gone."""

import os
import socket
import sys
import threading
import time

_POLL_S = 3.0
_SILENT_S = 30.0


def watch_head(address: str, stop: threading.Event) -> None:
    """Start a thread that ends the process when nothing listens at `address` any more.

    Ray itself blocks every call for a minute then, Ctrl-C included, and ends the process with a
    dump of its own. There is nothing to clean up: the runs end with their nodes, which lose the
    head as well, and their files are complete at any moment.
    """
    threading.Thread(target=_watch, args=(address, stop), daemon=True).start()


def _watch(address: str, stop: threading.Event) -> None:
    answered = time.monotonic()
    while not stop.wait(_POLL_S):
        if _listens(address):
            answered = time.monotonic()
        elif time.monotonic() - answered >= _SILENT_S:
            if sys.stderr.isatty():
                # The live table has hidden the cursor and does not get to show it again.
                sys.stderr.write("\x1b[?25h")
            print(
                f"\ncluster.address: the Ray head at {address} has not answered for "
                f"{_SILENT_S:.0f} s; start it and its nodes again (`ray start`), then the same "
                "command: it goes on from the checkpoints",
                file=sys.stderr,
                flush=True,
            )
            os._exit(1)


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_POLL_S).close()
    except OSError:
        return False
    return True
