"""A network without memory or chance, batches and a step's context, for tests of the methods."""

import torch
from torch import nn
from torch.nn import functional as F

from ecocseg.data.transforms import Sample
from ecocseg.methods.base import Context, summands, whole
from ecocseg.types import IMAGE_MEAN, Outputs

NAMES = ("road", "sidewalk", "building", "wall", "fence")
H, W = 12, 16


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def sample(seed, labelled, batch=2, size=(H, W)):
    random = generator(seed)
    labels = torch.randint(0, len(NAMES), (batch, *size), generator=random)
    labels[torch.rand(batch, *size, generator=random) < 0.2] = 255
    valid = torch.ones(batch, *size, dtype=torch.bool)
    valid[-1, :, -3:] = False
    if not labelled:
        labels = torch.full_like(labels, 255)
    images = torch.rand(batch, 3, *size, generator=random) * valid[:, None]
    return Sample(images=images, labels=labels, valid=valid)


class PixelNet(nn.Module):
    """A network without memory or chance; counts the modes in which it was called."""

    def __init__(self, channels):
        super().__init__()
        self.layer = nn.Conv2d(3, channels, 3, padding=1)
        nn.init.normal_(self.layer.weight, std=1.5, generator=generator(channels))
        self.modes = []
        self.mean = torch.tensor(IMAGE_MEAN).view(1, 3, 1, 1)

    def forward(self, images, change=None):
        self.modes.append(self.training)
        if change is not None:
            (images,) = change([images])
        return self.layer(images)

    def outputs(self, images, random):
        logits = self(images)
        return Outputs(heads=whole(logits), features=F.avg_pool2d(logits, 4), stride=4)

    def features(self, images):
        return F.avg_pool2d(self.layer(images), 4)


def losses(method, given, batch):
    """The summands of a batch in one part."""
    return list(summands([method.losses(given, batch)], given.group))


def context(encoding, **fields):
    return Context(
        **{
            "student": PixelNet(encoding.channels),
            "teacher": None,
            "encoding": encoding,
            "step": 0,
            "steps": 10,
            "random": generator(4),
        }
        | fields
    )
