"""A batch in parts has the gradient of the whole batch, however unevenly its pixels count."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from ecocseg.data.transforms import Sample
from ecocseg.encodings import build_encoding
from ecocseg.engine.fit import Trainer
from ecocseg.engine.schedule import FitConfig
from ecocseg.engine.step import _micro_batches
from ecocseg.errors import ConfigError
from ecocseg.methods import build_method
from ecocseg.methods.base import Counts, whole
from ecocseg.types import IGNORE, Outputs

NAMES = ("road", "sidewalk", "building", "wall", "fence")
BATCH, H, W = 4, 20, 30
CERTAIN = {"cutmix_probability": 0.0}
METHODS = {
    "supervised": {"divisor": "valid"},
    "fixmatch": CERTAIN,
    "unimatch": CERTAIN | {"feature_dropout": 0.0},
    "unimatch_v2": CERTAIN | {"dropped_pairs": 0.0},
    "stpp": {"cutout_probability": 0.0},
}


class Table(nn.Module):
    """Logits of their own for every pixel of the images' plane, without memory or chance."""

    def __init__(self, channels):
        super().__init__()
        random = torch.Generator().manual_seed(3)
        self.encoder = nn.Conv2d(3, channels, 1).double()
        nn.init.zeros_(self.encoder.bias)
        self.table = nn.Parameter(
            torch.randn(channels, H, W, generator=random, dtype=torch.float64)
        )

    def forward(self, images, change=None):
        maps = [self.encoder(images) + self.table]
        return (maps if change is None else change(maps))[0]

    def outputs(self, images, random):
        logits = self(images)
        return Outputs(heads=whole(logits), features=logits, stride=1)


def sample(seed, encoding, shares=(0.02, 1.0)):
    """Black images, which strong views leave black; of each half another share counts."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, len(NAMES), (BATCH, H, W), generator=random)
    drawn = torch.rand(BATCH, H, W, generator=random)
    valid = drawn < torch.tensor(shares).repeat_interleave(BATCH // 2)[:, None, None]
    assert valid[: BATCH // 2].float().mean() < 0.1 < valid[BATCH // 2 :].float().mean()
    return Sample(
        images=torch.zeros(BATCH, 3, H, W, dtype=torch.float64),
        labels=labels.masked_fill(~valid, IGNORE),
        valid=valid,
        targets=encoding.pack(encoding.encode(labels)),
    )


def trainer(method, encoding, parts, folder, options):
    schedule = FitConfig(steps=1, labelled_batch=BATCH, unlabelled_batch=BATCH, micro_batches=parts)
    return Trainer(
        schedule,
        model=Table(encoding.channels),
        encoding=encoding,
        method=build_method(method, options),
        device=torch.device("cpu"),
        seed=0,
        folder=folder,
    )


def stepped(given, batch):
    """Gradients of one step and its scalars."""
    logs, _ = given.train_step(batch, 0, 1)
    gradients = {name: p.grad for name, p in given.student.named_parameters()}
    return gradients, {name: float(value) for name, value in logs.items()}


@pytest.fixture(params=["one-hot", "ecoc"])
def encoding(request):
    options = {"length": 10} if request.param == "ecoc" else {}
    return build_encoding(request.param, {"quality_threshold": 0.5, **options}, NAMES)


def batch_of(encoding, method):
    names = build_method(method, {}).streams
    return {name: sample(seed, encoding) for seed, name in enumerate(names)}


@pytest.mark.parametrize("method", METHODS)
def test_parts_have_the_gradient_of_the_whole(encoding, method, tmp_path):
    """Of the first half of the images 2 % of the pixels count, of the second half all."""
    batch = batch_of(encoding, method)
    (expected, logs), *others = (
        stepped(trainer(method, encoding, parts, tmp_path, METHODS[method]), batch)
        for parts in (1, 2, 4)
    )
    assert float(expected["table"].abs().max()) > 1e-6
    for found, scalars in others:
        # Divisors have 24 bits.
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-9)
        for name in ("loss", "loss/labelled"):
            assert scalars[name] == pytest.approx(logs[name], rel=1e-6)


@pytest.mark.parametrize("method", ["fixmatch", "unimatch", "unimatch_v2", "stpp"])
def test_pasted_boxes_count_for_the_whole(encoding, method, tmp_path):
    """With boxes of other images: parts computed alone, put together by what each of them counts.

    Without labels, so that the views' loss is all there is; of `unimatch` one view.
    """
    options = {"cutmix_probability": 1.0}
    options |= {"feature_dropout": 0.0, "feature_weight": 0.0} if method == "unimatch" else {}
    options = {"cutout_probability": 1.0} if method == "stpp" else options
    batch = batch_of(encoding, method)
    batch["labelled"] = replace(
        batch["labelled"], labels=torch.full_like(batch["labelled"].labels, IGNORE)
    )
    given = trainer(method, encoding, 2, tmp_path, options)
    found, _ = stepped(given, batch)

    total, pixels = torch.zeros_like(found["table"]), []
    parts = list(_micro_batches(batch, 2))
    means = 2 if method.startswith("unimatch") else 1
    for mean in range(means):
        counts, sums = [], []
        for number, part in enumerate(parts):
            fresh = trainer(method, encoding, 1, tmp_path, options)
            later = [number] if number else []
            context = fresh._context(fresh.group.generator(0, "method", 0, *later), 0, 1)
            losses = fresh.method.losses(context, part)
            asked = next(losses)
            while asked is not None:
                if isinstance(asked, Counts):
                    # Only the mean looked at has a divisor that is not infinite.
                    divisors = torch.full(asked.pixels.shape, float("inf"))
                    place = len(divisors) - means + mean
                    if method != "unimatch_v2" or len(divisors) == means:
                        divisors[place] = 1.0
                        counts.append(int(asked.pixels[place]))
                    asked = losses.send(divisors)
                    continue
                asked.value.backward()
                asked = next(losses, None)
            sums.append(fresh.student.table.grad)
        total += sum(sums) / sum(counts)
        pixels.append(counts)
    assert all(first != second for first, second in pixels)
    torch.testing.assert_close(found["table"], total, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_hard_pixels_of_a_batch_in_parts_are_refused(encoding, method, tmp_path):
    options = METHODS[method] | {"ohem_threshold": 0.7}
    batch = batch_of(encoding, method)
    if method == "stpp":
        del batch["unlabelled"]
    words = r"method\.ohem_threshold: got 0\.7 with schedule\.micro_batches 2"
    with pytest.raises(ConfigError, match=words):
        stepped(trainer(method, encoding, 2, tmp_path, options), batch)
    assert stepped(trainer(method, encoding, 1, tmp_path, options), batch)


def test_a_crop_of_its_own_in_each_part_is_refused(tiny_run):
    # Batch statistics want two images in a part.
    fields = {"labelled_batch": 4, "unlabelled_batch": 4, "micro_batches": 2}
    run = tiny_run("supervised", "one-hot", method_options={"divisor": "valid"}, **fields)
    hrda = Trainer(
        run.trainer.config,
        model=tiny_run("mic", "one-hot").trainer.student,
        encoding=run.encoding,
        method=run.trainer.method,
        device=torch.device("cpu"),
        seed=0,
    )
    words = r"method\.divisor: got 'valid' with schedule\.micro_batches 2 and a network of 2 heads"
    with pytest.raises(ConfigError, match=words):
        list(hrda.fit(run.streams, run.evaluate))
