"""The cases of test_distributed.py, and a process that computes them as one of several.

python group_worker.py RANK SIZE DATA FOLDER: results go to FOLDER/<case>.<rank>.pt.
"""

import copy
import sys
from dataclasses import replace
from pathlib import Path

import torch
from timm.layers import BatchNormAct2d, DropPath
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny_runs import maker, tiny_model

from ecocseg.data.manifest import load_manifest, processed_dir
from ecocseg.data.mixing import class_mask
from ecocseg.encodings import ENCODINGS, build_encoding
from ecocseg.engine import checkpoint, distributed
from ecocseg.engine.distributed import SINGLE, joined, require_shared
from ecocseg.engine.evaluate import EvaluationConfig, evaluate
from ecocseg.engine.events import CheckpointEvent, Diverged, EvaluationEvent, StepEvent
from ecocseg.engine.optim import OptimConfig
from ecocseg.errors import ConfigError
from ecocseg.methods import METHODS
from ecocseg.models.sharing import share

SGD = OptimConfig(name="sgd", lr=0.01, head_lr_factor=1.0, weight_decay=1e-4, power=0.9)
COMMON = {
    "steps": 2,
    "double": True,
    "labelled_batch": 4,
    "unlabelled_batch": 4,
    "optim": SGD,
}
SCALES = {"method_options": {"label_scales": (0.5, 1.0)}}
DICE = {"encoding_options": {"criterion": "dice"}}
# So low that the hardest pixels of the whole batch decide.
HARD = {"ohem_threshold": 0.01, "ohem_min_kept": 300}
BATCH = {"mix_classes": "batch"}
SHARE = {"quality": "batch"}
CASES = {
    **{f"{m}_{e}": (m, e, {}) for m in METHODS for e in ENCODINGS if m != "stpp"},
    **{f"stpp_{e}": ("stpp", e, {"steps": 3, **SCALES}) for e in ENCODINGS},
    "supervised_valid": ("supervised", "ecoc", {"method_options": {"divisor": "valid"}}),
    "supervised_hard": ("supervised", "one-hot", {"method_options": {"divisor": "valid", **HARD}}),
    "supervised_distorted": ("supervised", "one-hot", {"method_options": {"distortion": True}}),
    "fixmatch_dice": ("fixmatch", "one-hot", DICE),
    "fixmatch_hard": ("fixmatch", "ecoc", {"method_options": HARD}),
    # What is of the whole batch; the labels of ST++ the first process makes alone.
    "dacs_batch": ("dacs", "ecoc", {"method_options": BATCH, "encoding_options": SHARE}),
    "stpp_batch": ("stpp", "ecoc", {"steps": 3, **SCALES, "encoding_options": SHARE}),
    "dacs_micro": ("dacs", "ecoc", {"micro_batches": 2}),
    "fixmatch_micro": ("fixmatch", "ecoc", {"micro_batches": 2}),
    "unimatch_v2_micro": ("unimatch_v2", "ecoc", {"micro_batches": 2}),
    "dacs_single_images": ("dacs", "one-hot", {"labelled_batch": 2, "unlabelled_batch": 2}),
    "unimatch_clipped": ("unimatch", "ecoc", {"clip_norm": 0.5}),
    "dacs_checkpointing": ("dacs", "ecoc", {"activation_checkpointing": True}),
    "unimatch_v2_adamw": ("unimatch_v2", "ecoc", {"optim": OptimConfig(lr=1e-3), "steps": 3}),
}


def tiny_maker(data, folder):
    names = ("streets_game", "streets_camera")
    manifests = {name: load_manifest(processed_dir(data, name)) for name in names}
    return maker(manifests, tiny_model(), lambda: folder)


def compute(make, case, folder, group=SINGLE, **changes):
    """A case's curves, confusion matrices, last gradients and state, as plain values."""
    method, encoding, fields = CASES[case]
    # Where every pixel counts as confident, rounding decides nothing.
    quality = 0.0 if encoding == "one-hot" else 0.5
    fields = COMMON | {"quality": quality} | fields | changes
    run = make(method, encoding, folder=folder, group=group, **fields)
    found = {"curves": [], "confusions": {}}
    for event in run.events():
        if isinstance(event, StepEvent):
            found["curves"].append(dict(event.metrics))
        elif isinstance(event, EvaluationEvent):
            found["confusions"] = dict(event.confusions)
        elif isinstance(event, CheckpointEvent):
            found["state"] = event.state
    found["gradients"] = {name: p.grad for name, p in run.trainer.student.named_parameters()}
    return found


def resumed(make, case, folder, group, cut):
    """A case that is cut off after `cut` events and goes on from its last checkpoint."""
    method, encoding, fields = CASES[case]
    fields = COMMON | {"quality": 0.5, "checkpoint_every": 1} | fields
    first = make(method, encoding, folder=folder, group=group, **fields)
    for number, event in enumerate(first.events(), start=1):
        if isinstance(event, CheckpointEvent) and group.first:
            checkpoint.save(folder / "last.pt", event.state)
        if number == cut:
            break
    second = make(method, encoding, folder=folder, group=group, **fields)
    second.trainer.restore(
        group.broadcast(checkpoint.load(folder / "last.pt") if group.first else {})
    )
    began = second.trainer.step
    assert list(second.events())
    return {"began": began, "state": second.trainer.state()}


def diverged(make, folder, group):
    """What is told of a run that diverges."""
    optim = replace(SGD, lr=1e30)
    fields = COMMON | {"optim": optim, "double": False}
    run = make("dacs", "one-hot", folder=folder, group=group, **fields)
    try:
        list(run.events())
    except Diverged as error:
        images = {name: sample.images for name, sample in error.batch.items()}
        return {"step": error.step, "keys": error.images, "images": images, "text": str(error)}


def layers():
    """Layers by name, each with the shape of one image."""
    norms = {
        "plain": nn.BatchNorm2d(3),
        "cumulative": nn.BatchNorm2d(3, momentum=None),
        "bare": nn.BatchNorm2d(3, affine=False, track_running_stats=False),
        "active": BatchNormAct2d(3),
        "volume": nn.BatchNorm3d(3),
        "line": nn.BatchNorm1d(3),
        "dropout": nn.Dropout(0.3),
        "channels": nn.Dropout2d(0.3),
        "volume channels": nn.Dropout3d(0.3),
        "path": DropPath(0.4),
        "none": nn.Dropout(0.0),
    }
    for layer in norms.values():
        for number, parameter in enumerate(layer.parameters()):
            with torch.no_grad():
                parameter.copy_(torch.tensor([1.5, -0.5, 2.0]) + number)
    sizes = {"line": (3, 7), "volume": (3, 2, 3, 4), "volume channels": (3, 2, 3, 4)}
    return {name: (layer.double(), sizes.get(name, (3, 4, 5))) for name, layer in norms.items()}


def passed(group):
    """What layers make of a batch of 6 in two passes, and what they and their inputs learn."""
    found = {}
    for name, (layer, size) in layers().items():
        share(layer, group)
        random = torch.Generator().manual_seed(7)
        torch.manual_seed(11)
        for _ in range(2):
            whole = torch.randn(6, *size, dtype=torch.float64, generator=random) * 3 + 1
            weight = torch.randn(6, *size, dtype=torch.float64, generator=random)
            images = group.part(whole).clone().requires_grad_()
            result = layer(images)
            ((result * group.part(weight)).sum() / len(images)).backward()
        gradients = [p.grad for p in layer.parameters()]
        group.average_(gradients)
        found[name] = {
            "result": group.gather(result.detach()),
            # Of the batch's mean loss.
            "input": group.gather(images.grad) / group.size,
            "gradients": gradients,
            "buffers": dict(layer.named_buffers()),
        }
        assert torch.equal(copy.deepcopy(layer).eval()(images.detach()), layer.eval()(images))
    return found


def sums(group):
    """What the group makes of tensors, and the gradient of a nonlinear sum."""
    whole = torch.arange(12, dtype=torch.float64).view(6, 2)
    part = group.part(whole).clone().requires_grad_()
    (group.sum(part.sum(0)).square().sum()).backward()
    mask = group.part(whole > 4)
    encoding = build_encoding("one-hot", {"quality": "batch", "quality_threshold": 4.0 / 12}, "ab")
    encoding.group = group
    share = encoding.pixel_quality(
        (part.detach() / 12)[..., None], (part.detach() % 3 > 0)[..., None]
    )
    return {
        "quality": group.gather(share),
        # An image has two of twelve classes.
        "classes": group.gather(
            class_mask(part.detach().long()[..., None], group.generator(3, "classes"), "batch")
        ),
        "gather": group.gather(part.detach()),
        "mirrored": group.gather(group.mirrored(part.detach())),
        "mirrored mask": group.gather(group.mirrored(mask)),
        # The loss is the mean over processes of what each computed.
        "gradient": group.gather(part.grad) / group.size,
        "mean": group.sum(part.detach().sum() / group.divisor(mask.sum())) / group.size,
        "empty": group.divisor(torch.tensor(0)) * group.size,
        "told": group.broadcast(f"of {group.rank}"),
    }


def scores(make, folder, group):
    """Confusion matrices of an untrained network: whole images, windows, by folder."""
    run = make("supervised", "ecoc", folder=folder)
    slide = EvaluationConfig(mode="slide", window=(32, 32), stride=(16, 24), batch_size=2)
    ways = (EvaluationConfig(batch_size=1), slide, EvaluationConfig(batch_size=3, per="folder"))
    given = (run.trainer.student, run.encoding, run.rows)
    return [evaluate(*given, way, torch.device("cpu"), group=group) for way in ways]


def refused(folder, group):
    """The message for a folder that others do not see."""
    try:
        distributed.NEW_FILE_S = 0.5
        require_shared(folder / f"own{group.rank}", group)
    except ConfigError as error:
        return str(error)


def main():
    rank, size, data, folder = int(sys.argv[1]), int(sys.argv[2]), *map(Path, sys.argv[3:])
    torch.set_num_threads(1)
    make = tiny_maker(data, folder)
    with joined(
        rank, size, address=f"file://{folder}/meeting", device=torch.device("cpu"), timeout_s=300
    ) as group:
        found = {
            "layers": passed(group),
            "sums": sums(group),
            "scores": scores(make, folder, group),
            "diverged": diverged(make, folder, group),
            "refused": refused(folder, group),
            "resumed": {
                "dacs_ecoc": resumed(make, "dacs_ecoc", folder / "cut_dacs", group, 3),
                # In the middle of the labelling that comes before the third stage.
                "stpp_ecoc": resumed(make, "stpp_ecoc", folder / "cut_stpp", group, 20),
            },
        }
        torch.save(found, folder / f"parts.{rank}.pt")
        for case in CASES:
            found = compute(make, case, folder / f"stages_{case}", group)
            torch.save(found, folder / f"{case}.{rank}.pt")
            print(case, flush=True)


if __name__ == "__main__":
    main()
