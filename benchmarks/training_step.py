"""What ECOC adds to a whole training step: time and peak memory against one-hot, in one run.

    python benchmarks/training_step.py                       # DAFormer at the paper's size
    python benchmarks/training_step.py --method mic --model hrda_mitb5 --size 1024
    python benchmarks/training_step.py --method dacs --model deeplabv2_resnet101
    python benchmarks/training_step.py --device cpu --method dacs --model small --size 96 --steps 2

The trainer, method, encodings and network are the project's own; the images are random and already
on the device, so that reading them takes no time. Both runs alternate in rounds of a few steps, so
that a change of the GPU's clock meets both; the ratio is that of the medians. Peak memory is of
PyTorch's allocator over a step, network and optimiser included; on a CPU it is not measured.
"""

import argparse
import statistics
import time
from collections.abc import Mapping

import torch

from ecocseg.data.classes import CLASS_TABLES
from ecocseg.data.transforms import Sample
from ecocseg.encodings import build_encoding
from ecocseg.engine.fit import Trainer
from ecocseg.engine.optim import OptimConfig
from ecocseg.engine.schedule import FitConfig
from ecocseg.methods import build_method
from ecocseg.models.segmenter import build_model
from pipeline.config.compose import compose_config
from pipeline.config.run_spec import clean_config, validate

ROUND = 5
NAMES = CLASS_TABLES["cityscapes19"].names


def make_trainer(encoding: str, options: argparse.Namespace, device: torch.device) -> Trainer:
    """A trainer with its networks on the device."""
    built = build_encoding(encoding, {}, NAMES)
    config = clean_config(
        compose_config(
            [
                f"model={options.model}",
                "model.weights=none",
                f"method={options.method}",
                *options.override,
            ]
        )
    )
    model = build_model(validate(config).model, built.channels)
    if options.channels_last:
        model = model.to(memory_format=torch.channels_last)
    fit = FitConfig(
        steps=10**6,
        labelled_batch=options.batch,
        unlabelled_batch=options.batch,
        optim=OptimConfig(lr=6e-5),
        precision=options.precision,
        activation_checkpointing=options.activation_checkpointing,
        micro_batches=options.micro_batches,
    )
    fields = {name: value for name, value in config["method"].items() if name != "name"}
    method = build_method(options.method, fields)
    return Trainer(fit, model=model, encoding=built, method=method, device=device, seed=0)


def make_batch(options: argparse.Namespace, device: torch.device) -> Mapping[str, Sample]:
    """Random images with labels in patches of 32x32 pixels, a tenth of them ignored."""
    generator = torch.Generator().manual_seed(0)
    batch = {}
    for stream in ("labelled", "unlabelled", "partner"):
        images = torch.rand(options.batch, 3, options.size, options.size, generator=generator)
        side = -(-options.size // 32)
        patches = torch.randint(0, 21, (options.batch, side, side), generator=generator)
        labels = patches.repeat_interleave(32, 1).repeat_interleave(32, 2)
        labels = labels[:, : options.size, : options.size].contiguous()
        labels[labels >= len(NAMES)] = 255
        valid = torch.ones(labels.shape, dtype=torch.bool)
        sample = Sample(images=images, labels=labels, valid=valid, trusted=valid)
        batch[stream] = sample.to(device)
    return batch


def step_times(trainer: Trainer, batch: Mapping[str, Sample], steps: int) -> list[float]:
    """Seconds of each of `steps` steps: losses, gradients, optimiser and teacher."""
    times = []
    for _ in range(steps):
        synchronize(trainer.device)
        start = time.perf_counter()
        trainer.train_step(batch, trainer.step, trainer.config.steps)
        trainer.step += 1
        trainer.update_teacher()
        synchronize(trainer.device)
        times.append(time.perf_counter() - start)
    return times


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(encoding: str, options: argparse.Namespace, device: torch.device) -> float:
    """MiB that the allocator holds at most during a step with only this trainer there."""
    trainer, batch = make_trainer(encoding, options, device), make_batch(options, device)
    step_times(trainer, batch, 2)
    torch.cuda.reset_peak_memory_stats(device)
    step_times(trainer, batch, 3)
    peak = torch.cuda.max_memory_allocated(device) / 2**20
    del trainer, batch
    torch.cuda.empty_cache()
    return peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", default="daformer", help="a file of pipeline/conf/method")
    parser.add_argument("--model", default="daformer_mitb5", help="a file of pipeline/conf/model")
    parser.add_argument(
        "--override",
        nargs="*",
        default=[],
        help="such as method.margins=[0,0,0,0] model.hr_crop=...",
    )
    parser.add_argument("--activation-checkpointing", action="store_true")
    parser.add_argument("--micro-batches", type=int, default=1)
    parser.add_argument("--size", type=int, default=512, help="height and width in pixels")
    parser.add_argument("--batch", type=int, default=2, help="images of each stream")
    parser.add_argument("--steps", type=int, default=60, help="measured steps of each encoding")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(
        f"{name}, torch {torch.__version__}: {options.method}, {options.model}, "
        f"{options.size}x{options.size}, batch {options.batch}, "
        f"{options.precision}, median of {options.steps} steps\n"
    )

    encodings = ("one-hot", "ecoc")
    memory = {}
    if device.type == "cuda":
        memory = {encoding: peak_memory(encoding, options, device) for encoding in encodings}
    trainers = {encoding: make_trainer(encoding, options, device) for encoding in encodings}
    batch = make_batch(options, device)
    times: dict[str, list[float]] = {encoding: [] for encoding in encodings}
    for trainer in trainers.values():
        # Kernels are compiled and libraries choose their algorithms in the first steps.
        step_times(trainer, batch, min(ROUND, options.steps))
    while len(times["ecoc"]) < options.steps:
        for encoding, trainer in trainers.items():
            todo = min(ROUND, options.steps - len(times[encoding]))
            times[encoding] += step_times(trainer, batch, todo)

    print("| encoding | ms per step | x one-hot | peak MiB | x one-hot |")
    print("| --- | --- | --- | --- | --- |")
    base = statistics.median(times["one-hot"])
    for encoding in encodings:
        median = statistics.median(times[encoding])
        row = f"| {encoding} | {median * 1e3:.1f} | {median / base:.3f} "
        if memory:
            ratio = memory[encoding] / memory["one-hot"]
            print(f"{row}| {memory[encoding]:,.0f} | {ratio:.3f} |")
        else:
            print(f"{row}| not measured | |")


if __name__ == "__main__":
    main()
