"""Codebooks for the tests of this folder."""

import torch

from ecocseg import Codebook


def random_book(classes, length, seed):
    """Distinct random rows; no column rules, so constant and equal columns occur."""
    generator = torch.Generator().manual_seed(seed)
    rows = set()
    while len(rows) < classes:
        rows.add(tuple(torch.randint(0, 2, (length,), generator=generator).tolist()))
    return Codebook(sorted(rows, key=lambda row: hash((row, seed))))
