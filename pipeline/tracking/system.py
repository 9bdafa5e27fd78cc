"""A light sampler of what a run takes of its machine: CPU, memory, GPU memory."""

import sys
import threading
from contextlib import suppress

import psutil

from pipeline.store.events import EventLog

_MB = 1e6


class SystemSampler:
    """A thread that logs events of kind "system" every `interval_s` seconds until stopped."""

    def __init__(self, events: EventLog, interval_s: float):
        self._events = events
        self._interval = interval_s
        self._process = psutil.Process()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="system-sampler", daemon=True)
        # The first reading of a CPU share is meaningless: it has no earlier one to compare with.
        psutil.cpu_percent()
        self._process.cpu_percent()
        self._thread.start()

    def sample(self) -> dict[str, float]:
        """One reading; CPU shares are percent of one core for the process, of all for the host."""
        memory = psutil.virtual_memory()
        values = {
            "process_cpu_percent": self._process.cpu_percent(),
            "process_memory_mb": self._process.memory_info().rss / _MB,
            "host_cpu_percent": psutil.cpu_percent(),
            "host_memory_percent": memory.percent,
        }
        cuda = sys.modules.get("torch.cuda")
        # Asking a GPU that the run does not use would itself take memory on it.
        if cuda is not None and cuda.is_initialized():
            free, total = cuda.mem_get_info()
            values["gpu_memory_mb"] = (total - free) / _MB
            values["gpu_memory_percent"] = 100 * (total - free) / total
            values["process_gpu_memory_mb"] = cuda.memory_allocated() / _MB
        return values

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self._thread.join(timeout=1)

    def _run(self) -> None:
        while not self._stopped.wait(self._interval):
            # A reading may fail in any way (torch half imported, a driver gone): then a gap.
            with suppress(Exception):
                self._events.append("system", self._events.last_step("system") + 1, self.sample())
