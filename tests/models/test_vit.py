"""The ViT below a DPT head against timm's own pass and DINOv2's treatment of positions."""

import math
from dataclasses import replace

import pytest
import torch

from ecocseg.engine.seed import seeded
from ecocseg.models.config import ModelConfig
from ecocseg.models.segmenter import build_model


@pytest.mark.parametrize("name", ["test_vit", "test_vit2"])
def test_tokens_of_a_vit_at_its_own_size_are_timms(name):
    with seeded(1):
        encoder = (
            build_model(ModelConfig(encoder=f"tu-{name}", decoder="dpt_vit"), 3).eval().encoder
        )
    vit = encoder.vit
    side = vit.patch_embed.img_size[0]
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = vit.forward_intermediates(
            image, indices=encoder.layers, norm=True, intermediates_only=True
        )
        for ours, theirs in zip(encoder(image)[1:], expected, strict=True):
            torch.testing.assert_close(ours, theirs)


def test_positions_of_other_sizes_are_dinov2s():
    """Bicubic (a = -0.75) over the four nearest old positions of each side, without smoothing."""
    encoder = build_model(ModelConfig(encoder="tu-test_vit", decoder="dpt_vit"), 3).encoder
    vit = encoder.vit
    (old, _), size = vit.patch_embed.grid_size, (4, 6)

    def kernel(x):
        x, a = abs(x), -0.75
        if x < 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0

    def weights(new):
        table = torch.zeros(new, old)
        for row in range(new):
            centre = (row + 0.5) / ((new + 0.1) / old) - 0.5
            for place in range(math.floor(centre) - 1, math.floor(centre) + 3):
                table[row, min(max(place, 0), old - 1)] += kernel(centre - place)
        return table

    with torch.no_grad():
        patches = torch.zeros(1, *size, vit.embed_dim)
        found = encoder._placed(patches)
        assert torch.equal(found[:, 0], (vit.cls_token + vit.pos_embed[:, :1])[:, 0])
        grid = vit.pos_embed[0, 1:].view(old, old, -1)
        expected = torch.einsum("ra,cb,abn->rcn", weights(size[0]), weights(size[1]), grid)
        torch.testing.assert_close(found[0, 1:], expected.reshape(24, -1), atol=1e-5, rtol=1e-4)


def test_metas_file_of_dinov2_loads_completely(tmp_path):
    """Its names are timm's without the wrapper; it holds a mask token beside them."""
    config = ModelConfig(encoder="tu-vit_small_patch14_dinov2", decoder="dpt_vit")
    with seeded(1):
        source = build_model(config, 3).encoder.vit.state_dict()
    path = tmp_path / "dinov2_vits14_pretrain.pth"
    torch.save({**source, "mask_token": torch.zeros(1, 384)}, path)
    assert {"cls_token", "pos_embed", "blocks.11.ls2.gamma", "norm.weight"} <= set(source)
    with seeded(2):
        loaded = build_model(replace(config, weights=str(path)), 3).encoder.vit.state_dict()
    assert all(torch.equal(value, source[name]) for name, value in loaded.items())
