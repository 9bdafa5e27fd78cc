"""The Triton kernels: interpreted, on a GPU where there is one, and compiled for absent GPUs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ecocseg import Codebook
from ecocseg.codes import kernels
from ecocseg.codes.build import mmd_bits

pytest.importorskip("triton")

CHECKS = [
    Path(__file__).with_name(name) for name in ("kernel_checks.py", "kernel_choice_checks.py")
]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "interpreted",
    [
        True,
        pytest.param(
            False, marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")
        ),
    ],
)
def test_kernels_equal_the_plain_path(interpreted):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    if interpreted:
        environment |= {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", *CHECKS],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


@pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="the interpreter does not compile")
@pytest.mark.parametrize("capability", [86, 90])
@pytest.mark.parametrize(("classes", "length"), [(19, 40), (81, 60)])
def test_kernels_compile_and_fit_the_registers(classes, length, capability):
    from ecocseg.codes.kernels.ahead import resources
    from ecocseg.codes.kernels.decode import decode
    from ecocseg.codes.kernels.loss import loss_and_slope, scale_
    from ecocseg.codes.kernels.mining import mine, pseudo

    book = Codebook(mmd_bits(classes, length, 0, 50))
    logits = torch.zeros(2, length, 64, 64, dtype=torch.bfloat16)
    labels, bits = torch.zeros(2, 64, 64).long(), torch.zeros(logits.shape).bool()
    setting = {"distance_weight": 5.0, "contrast_weight": 2.0, "temperature": 0.5}
    setting |= {"extra_positive": True, "want_slope": True}
    calls = {
        "decode": lambda: decode(logits, book.words),
        "mine": lambda: mine(logits, book.words, 0.9, classes),
        "pseudo": lambda: pseudo(logits, book.words, 0.9, classes),
        "labels": lambda: loss_and_slope(logits, labels, None, book.words, **setting),
        "bits": lambda: loss_and_slope(logits, bits, torch.ones(2, 64, 64), book.words, **setting),
        "scale": lambda: scale_(logits, torch.ones(())),
    }
    if classes == 81:
        # The largest of each kind: the others take as long to compile and less room.
        calls = {name: calls[name] for name in ("pseudo", "bits")}
    # At the paper's N = 19, K = 40 nothing leaves the registers, and three programs of 128 lanes
    # share a multiprocessor's 65,536; at COCO's a few numbers may be spilled.
    registers, spilled = (168, 0) if classes == 19 else (255, 256)
    for name, call in calls.items():
        (found,) = resources(call, capability)
        assert found.registers <= registers, (name, found)
        assert found.spilled <= spilled, (name, found)
        assert found.instructions > 0


def test_the_cpu_takes_the_plain_path_and_imports_no_triton(tmp_path):
    book = Codebook([[0, 1], [1, 0]])
    logits = torch.zeros(1, 2, 3, 3)
    if "TRITON_INTERPRET" not in os.environ:
        assert not kernels.usable(logits, book.words)
    code = (
        "import sys, torch; from ecocseg import Codebook; from ecocseg.codes import kernels\n"
        "before = 'triton' in sys.modules\n"
        "kernels.usable(torch.zeros(1, 2, 3, 3), Codebook([[0, 1], [1, 0]]).words)\n"
        "assert ('triton' in sys.modules) == before\n"
        "assert 'ecocseg.codes.kernels.loss' not in sys.modules\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
