"""The Triton kernels against the time that reading and writing the logits once takes.

    python benchmarks/kernels.py [--size 512] [--batch 2] [--runs 50]
    python benchmarks/kernels.py --resources

On a CUDA GPU: per kernel, type and benchmark the median time by CUDA events, with the cache emptied
between runs, next to a copy of the logits (read once, written once: the yardstick) and to the plain
PyTorch path. Before that, what the kernel gives is compared with the plain path. "easy" logits
settle 95 % of the pixels with their first candidate, as late in training; "hard" ones are random.
`--resources` needs no GPU: it compiles the kernels for an RTX 3090 (sm_86) and an H100 (sm_90) and
prints registers, bytes spilled to memory and instructions.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
from label_path import CODES, code_size
from torch import Tensor

from ecocseg import Codebook, ECOCLoss, decode, mine_reliable_bits
from ecocseg.codes import kernels
from ecocseg.codes.mining import code_bits, denoise

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
THRESHOLD = 0.95
SETTING = {"distance_weight": 5.0, "contrast_weight": 2.0, "temperature": 0.5}
# Larger than the last cache of any GPU so far.
FLUSH_BYTES = 256 * 2**20


def make_case(
    book: Codebook, kind: str, dtype: torch.dtype, batch: int, size: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits [B,K,H,W], labels, target bits, weight."""
    generator = torch.Generator(device).manual_seed(0)
    shape = (batch, book.length, size, size)
    labels = torch.randint(
        book.num_classes, (batch, size, size), generator=generator, device=device
    )
    logits = torch.randn(shape, generator=generator, device=device)
    if kind == "easy":
        sure = torch.rand(labels.shape, generator=generator, device=device) < 0.95
        logits += (code_bits(labels, book) * 12.0 - 6) * sure[:, None]
    bits = code_bits(labels, book) ^ (torch.rand(shape, generator=generator, device=device) < 0.05)
    weight = torch.rand(labels.shape, generator=generator, device=device)
    return logits.to(dtype), labels, bits, weight


def kernel_calls(
    case: tuple[Tensor, Tensor, Tensor, Tensor], book: Codebook
) -> dict[str, Callable[[], Any]]:
    """What is measured, by name."""
    from ecocseg.codes.kernels.decode import decode as decode_kernel
    from ecocseg.codes.kernels.loss import loss_and_slope
    from ecocseg.codes.kernels.mining import mine, pseudo

    logits, labels, bits, weight = case
    least, limit = round(2 * THRESHOLD - 1, 12), book.num_classes
    options: dict[str, Any] = {**SETTING, "extra_positive": True, "want_slope": True}
    return {
        "decode": lambda: decode_kernel(logits, book.words),
        "mining": lambda: mine(logits, book.words, least, limit),
        "pseudo-labels": lambda: pseudo(logits, book.words, least, limit),
        "loss, labels": lambda: loss_and_slope(logits, labels, weight, book.words, **options),
        "loss, bits": lambda: loss_and_slope(logits, bits, weight, book.words, **options),
    }


def plain_calls(
    case: tuple[Tensor, Tensor, Tensor, Tensor], book: Codebook
) -> dict[str, Callable[[], Any]]:
    """The same work in PyTorch, forward and backward for the losses."""
    logits, labels, bits, weight = case
    loss = ECOCLoss(book, **SETTING)
    student = logits.detach().requires_grad_()

    def step(targets: Tensor) -> tuple[Tensor, Tensor]:
        student.grad = None
        terms = loss(student, targets, weight)
        terms.total.backward()
        assert student.grad is not None
        return torch.stack(terms[1:]), student.grad

    return {
        "decode": lambda: decode(logits, book),
        "mining": lambda: mine_reliable_bits(logits, book, THRESHOLD),
        "pseudo-labels": lambda: denoise(logits, book, THRESHOLD),
        "loss, labels": lambda: step(labels),
        "loss, bits": lambda: step(bits),
    }


def without_kernels(call: Callable[[], Any]) -> Any:
    """The result of `call` with the plain path everywhere."""
    with kernels.plain_path():
        return call()


def check(ours: dict[str, Callable[[], Any]], plain: dict[str, Callable[[], Any]]) -> None:
    """Raise SystemExit where a kernel and the plain path differ by more than rounding."""
    for name, call in plain.items():
        got, wanted = ours[name](), without_kernels(call)
        if name.startswith("loss"):
            pixels = got[1][:, 0].numel()
            sums, slope = got[0] / pixels, got[1].float() / pixels
            apart = float(((sums - wanted[0]) / wanted[0]).abs().max())
            scale = wanted[1].float().abs().max()
            rough = float((slope - wanted[1].float()).abs().max() / scale)
            fine = apart < 1e-4 and rough < 0.02
            says = f"terms differ by {apart:.1e}, slopes by {rough:.1e} of the largest"
        else:
            first, second = (got, wanted) if name == "decode" else (got[0], wanted[0])
            share = float((first != second).float().mean())
            if name == "mining":
                share = max(share, float((got[1] != wanted.mask).float().mean()))
            # Near ties and means next to T fall either way in float32.
            fine, says = share < 1e-4, f"{share:.1e} of the results differ"
        if not fine:
            sys.exit(f"{name}: kernel and plain path differ: {says}")


def median_ms(call: Callable[[], Any], runs: int, flush: Tensor) -> float:
    """Median time on the GPU, the cache emptied before each run."""
    for _ in range(3):
        call()
    times = []
    for _ in range(runs):
        flush.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def measure(options: argparse.Namespace) -> None:
    """Print the table of times."""
    device = torch.device("cuda")
    flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device=device)
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, B={options.batch}, "
        f"{options.size}x{options.size}, median of {options.runs}\n"
    )
    print("| N, K | type | logits | what | ms | x copy | GB/s copied | plain ms |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for classes, length in options.codes:
        book = Codebook.build("mmd", num_classes=classes, length=length, draws=2000)
        for type_name in options.types:
            for kind in ("easy", "hard"):
                case = make_case(book, kind, TYPES[type_name], options.batch, options.size, device)
                ours, plain = kernel_calls(case, book), plain_calls(case, book)
                check(ours, plain)
                copy = torch.empty_like(case[0])
                base = median_ms(lambda to=copy, of=case[0]: to.copy_(of), options.runs, flush)
                speed = 2 * case[0].nbytes / base / 1e6
                row = f"| {classes}, {length} | {type_name} | {kind}"
                print(f"{row} | copy | {base:.3f} | 1.00 | {speed:.0f} | |")
                for name, call in ours.items():
                    time = median_ms(call, options.runs, flush)
                    slow = ""
                    if name in plain:
                        # Few runs: it is slow, and only its order of magnitude matters.
                        milliseconds = without_kernels(
                            lambda call=plain[name]: median_ms(call, 5, flush)
                        )
                        slow = f"{milliseconds:.2f}"
                    print(
                        f"{row} | {name} | {time:.3f} | {time / base:.2f} | | {slow} |", flush=True
                    )


def print_resources(options: argparse.Namespace) -> None:
    """Print what the compiled kernels take."""
    from ecocseg.codes.kernels.ahead import resources

    print("| N, K | type | kernel | target | registers | spilled bytes | instructions |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for classes, length in options.codes:
        book = Codebook.build("mmd", num_classes=classes, length=length, draws=2000)
        for type_name in options.types:
            case = make_case(book, "hard", TYPES[type_name], 1, 64, torch.device("cpu"))
            for name, call in kernel_calls(case, book).items():
                for capability in (86, 90):
                    (found,) = resources(call, capability)
                    print(
                        f"| {classes}, {length} | {type_name} | {name} | sm_{capability} "
                        f"| {found.registers} | {found.spilled} | {found.instructions} |",
                        flush=True,
                    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=512, help="height and width in pixels")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--codes", type=code_size, nargs="+", default=CODES, metavar="N,K")
    parser.add_argument("--types", nargs="+", choices=TYPES, default=list(TYPES))
    parser.add_argument("--resources", action="store_true", help="compile only; needs no GPU")
    options = parser.parse_args()
    if os.environ.get("TRITON_INTERPRET"):
        sys.exit("TRITON_INTERPRET is set: the interpreter says nothing about time; unset it")
    if options.resources:
        print_resources(options)
    elif torch.cuda.is_available():
        measure(options)
    else:
        sys.exit(
            "no CUDA GPU here: run this on a machine that has one, or give --resources, which "
            "compiles the kernels and prints what they take"
        )


if __name__ == "__main__":
    main()
