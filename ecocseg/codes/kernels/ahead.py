"""Compile the kernels for a GPU that need not be here, and see what they take.

What a test and `benchmarks/kernels.py --resources` look at: registers, bytes spilled to memory and
instructions, as NVIDIA's assembler states them.
"""

import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.experimental.gluon._runtime import GluonASTSource
from triton.runtime import driver


class Resources(NamedTuple):
    """What a compiled kernel takes."""

    registers: int
    """Per lane, 255 at most."""
    spilled: int
    """Bytes per lane that did not fit the registers."""
    shared: int
    """Bytes of shared memory per program."""
    instructions: int
    """Of the machine, the code of all branches."""


class _AbsentGPU:
    """As much of Triton's driver as a launch asks for before it starts anything."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> str:
        # A key of its own among the compiled kernels, beside those of GPUs that are here.
        return f"absent sm_{self.target.arch}"

    def get_current_stream(self, device: str) -> int:
        return 0


def resources(call: Callable[[], Any], capability: int) -> list[Resources]:
    """Compile each kernel that `call` launches, for compute capability 86 (RTX 3090), 90 (H100) ..

    `call` is given CPU tensors; no kernel runs, so what it returns is not set. Raises RuntimeError
    when the assembler's tools fail, and what Triton raises when a kernel does not compile.
    """
    target = GPUTarget("cuda", capability, 32)
    found: list[Resources] = []

    def compile_only(*, fn: Any, compile: dict[str, Any], **_: Any) -> bool:
        source = GluonASTSource(
            fn.jit_function, compile["signature"], compile["constants"], compile["configs"][0]
        )
        options = {name: compile[name] for name in ("num_warps", "enable_fp_fusion")}
        found.append(_look(triton.compile(source, target=target, options=options).asm["cubin"]))
        return True  # do not go on to the launch

    present = driver._active
    with triton.knobs.runtime.scope():
        triton.knobs.runtime.jit_cache_hook = compile_only
        driver.set_active(_AbsentGPU(capability))
        try:
            call()
        finally:
            driver._active = present
    return found


def _look(cubin: bytes) -> Resources:
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run(
            [tool, "-res-usage", "-sass", file.name], capture_output=True, text=True, check=False
        )
    used = dict(re.findall(r"(REG|STACK|LOCAL|SHARED):(\d+)", done.stdout))
    if done.returncode or len(used) != 4:
        raise RuntimeError(f"{tool}: {done.stdout[:500]}{done.stderr}")
    # What is spilled lies on the stack; an array indexed at run time would be LOCAL.
    return Resources(
        registers=int(used["REG"]),
        spilled=int(used["STACK"]) + int(used["LOCAL"]),
        shared=int(used["SHARED"]),
        instructions=len(re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?!NOP)", done.stdout, re.M)),
    )
