"""What a training step spends on labels: ours, straightforward PyTorch, one-hot.

    python benchmarks/label_path.py [--size 512] [--batch 2] [--device cuda] [--skip-direct]

One-hot: softmax, maximum and quality weight of a teacher's N channels, then weighted cross-entropy
of a student's, forward and backward. Ours and direct: mining, hybrid labels and quality weight of
K channels, then the three losses, forward and backward. Direct is the method's formulas written
with broadcasting over [B,N,K,H,W], which is what the released code does. "easy" logits settle 95 %
of the pixels with their first candidate, as late in training; "hard" ones are random. Times are
the best of several runs; memory is the peak beyond what the logits take.
"""

import argparse
import ctypes
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ecocseg import Codebook, ECOCLoss, quality_weight
from ecocseg.codes.mining import denoise

# The quality threshold is low so that random logits, too, weigh more than 0.
THRESHOLD, QUALITY = 0.95, 0.68
CODES = [(19, 40), (81, 60)]


def one_hot_path(teacher: Tensor, student: Tensor) -> None:
    with torch.no_grad():
        confidence, labels = teacher.softmax(1).max(1)
        weight = quality_weight(confidence, QUALITY)[:, None, None]
    (functional.cross_entropy(student, labels, reduction="none") * weight).mean().backward()


def our_path(teacher: Tensor, student: Tensor, book: Codebook, loss: ECOCLoss) -> None:
    found = denoise(teacher, book, THRESHOLD)
    weight = quality_weight(found.confidence, QUALITY)[:, None, None].expand_as(found.confidence)
    loss(student, found.bits, weight).total.backward()


def direct_labels(teacher: Tensor, book: Codebook) -> tuple[Tensor, Tensor]:
    words = book.bits.to(teacher.device)
    p = teacher.sigmoid()
    q = torch.maximum(p, 1 - p)
    order = (p[:, None] - words[None, :, :, None, None].float()).abs().sum(2).argsort(1)
    nearest = words[order[:, 0]].permute(0, 3, 1, 2)
    same = torch.ones_like(nearest)
    mask = torch.zeros_like(nearest)
    growing = torch.ones_like(order[:, :1], dtype=torch.bool)
    for rank in range(book.num_classes):
        same = same & (words[order[:, rank]].permute(0, 3, 1, 2) == nearest)
        size = same.sum(1, keepdim=True)
        mask = torch.where(growing, same, mask)
        growing = growing & ((q * same).sum(1, keepdim=True) <= THRESHOLD * size) & (size > 0)
        if not growing.any():
            break
    weight = (q.mean(1) > QUALITY).float().mean((1, 2))
    return torch.where(mask, nearest, teacher >= 0), weight[:, None, None]


def direct_path(teacher: Tensor, student: Tensor, book: Codebook) -> None:
    with torch.no_grad():
        bits, weight = direct_labels(teacher, book)
    words = book.signed.to(teacher.device)[None, :, :, None, None]
    target = bits * 2.0 - 1
    bce = functional.binary_cross_entropy_with_logits(student, bits.float(), reduction="none")
    positive = functional.cosine_similarity(student, target, dim=1)
    cosines = functional.cosine_similarity(student[:, None], words, dim=2)
    known = (target[:, None] == words).all(2)
    rivals = torch.where(known, -torch.inf, cosines / 0.5)
    both = torch.cat([positive[:, None] / 0.5, rivals], 1)
    contrast = both.logsumexp(1) - positive / 0.5
    ((bce.mean(1) + 5 * (1 - positive) + 2 * contrast) * weight).mean().backward()


def make_logits(labels: Tensor, signed: Tensor, kind: str) -> Tensor:
    """[B,K,H,W]: random, or 95 % of the pixels near their codeword."""
    shape = (labels.shape[0], signed.shape[1], *labels.shape[1:])
    noise = torch.randn(shape, device=labels.device)
    if kind == "hard":
        return noise
    sure = signed[labels].permute(0, 3, 1, 2) * 6 + noise
    return torch.where(torch.rand_like(noise[:, :1]) < 0.95, sure, noise).contiguous()


def resident(field: str) -> float:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(field))


def peak_memory(run: Callable[[], None], device: torch.device) -> float:
    """MB that `run` takes at its peak beyond what was there before (CPU: Linux only)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        allocated = torch.cuda.memory_allocated(device)
        run()
        return (torch.cuda.max_memory_allocated(device) - allocated) / 2**20
    # Give back what earlier runs freed, which would hide what this one takes.
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # resets the high-water mark
    before = resident("VmRSS")
    run()
    return resident("VmHWM") - before


@dataclass
class Path:
    """One way from logits to a gradient, with its best time and its peak memory."""

    name: str
    run: Callable[[], None]
    student: Tensor
    seconds: float = float("inf")
    memory: float = 0.0

    def once(self) -> None:
        """Run, and wait for a device that has not finished."""
        self.student.grad = None
        self.run()
        if self.student.is_cuda:
            torch.cuda.synchronize(self.student.device)

    def time(self) -> None:
        """Run once; the best time counts."""
        start = time.perf_counter()
        self.once()
        self.seconds = min(self.seconds, time.perf_counter() - start)


def measure(paths: list[Path], runs: int) -> None:
    """Peak memory of one run of each path, then the best time of `runs` runs, taken in turns.

    In turns, because a machine is slower at times: then all paths are.
    """
    for path in paths:
        if runs > 1:
            path.once()
        path.student.grad = None
        path.memory = peak_memory(path.once, path.student.device)
        path.student.grad = None
    for _ in range(runs):
        for path in paths:
            path.time()
            path.student.grad = None


def report(case: str, size: int, base: Path, paths: list[Path]) -> None:
    for path in paths:
        print(
            f"| {case} | {path.name} | {size} | {path.seconds:.3f} "
            f"| {path.seconds / base.seconds:.1f} | {path.memory:,.0f} "
            f"| {path.memory / max(base.memory, 1):.1f} |",
            flush=True,
        )


def compare(classes: int, length: int, kind: str, options: argparse.Namespace) -> None:
    """Print the rows of one case."""
    device = torch.device(options.device)
    book = Codebook.build("mmd", num_classes=classes, length=length, draws=2000)
    eye, signed = torch.eye(classes, device=device), book.signed.to(device)
    loss = ECOCLoss(book)

    def paths(size: int) -> tuple[Path, Path, Path]:
        labels = torch.randint(0, classes, (options.batch, size, size), device=device)
        first = make_logits(labels, eye, kind)
        first_student = make_logits(labels, eye, "hard").requires_grad_()
        teacher = make_logits(labels, signed, kind)
        student = make_logits(labels, signed, "hard").requires_grad_()
        return (
            Path("one-hot", lambda: one_hot_path(first, first_student), first_student),
            Path("ours", lambda: our_path(teacher, student, book, loss), student),
            Path("direct", lambda: direct_path(teacher, student, book), student),
        )

    case = f"{kind}, N={classes}, K={length}"
    one_hot, ours, direct = paths(options.size)
    measure([one_hot, ours], options.runs)
    report(case, options.size, one_hot, [one_hot, ours])
    if options.skip_direct:
        return
    # About five such tensors live at once when the gradient is taken: where they do not fit, a
    # smaller image tells the ratio.
    size = options.size
    while 5 * 4 * classes * length * options.batch * size**2 > options.most_gb * 2**30:
        size //= 2
    if size != options.size:
        one_hot, _, direct = paths(size)
        measure([one_hot], options.runs)
    measure([direct], 1)
    report(case, size, one_hot, [one_hot, direct][size == options.size :])


def code_size(text: str) -> tuple[int, int]:
    """Classes and bits of a codebook, given as "19,40"."""
    try:
        classes, length = map(int, text.split(","))
    except ValueError:
        message = f"got {text!r}, allowed classes and bits as 19,40"
        raise argparse.ArgumentTypeError(message) from None
    return classes, length


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=512, help="height and width in pixels")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--codes", type=code_size, nargs="+", default=CODES, metavar="N,K")
    parser.add_argument("--runs", type=int, default=7, help="runs of which the best counts")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--skip-direct", action="store_true")
    parser.add_argument("--most-gb", type=float, default=12, help="memory that direct may take")
    options = parser.parse_args()
    torch.manual_seed(0)
    print(
        f"B={options.batch}, {options.device}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads, {platform.machine()}\n"
    )
    print("| case | path | size | seconds | x one-hot | peak extra MB | x one-hot |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for classes, length in options.codes:
        for kind in ("easy", "hard"):
            compare(classes, length, kind, options)


if __name__ == "__main__":
    main()
