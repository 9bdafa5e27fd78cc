import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ecocseg.config import from_mapping
from ecocseg.engine.optim import OptimConfig, build_optimizer, learning_rate, set_learning_rate
from ecocseg.errors import ConfigError
from ecocseg.models.blank import blank_model
from ecocseg.models.config import ModelConfig
from ecocseg.models.segmenter import build_model


def mmseg_rate(base, step, steps, power, warmup, ratio):
    """mmcv's PolyLrUpdaterHook with min_lr 0, under its linear warm-up."""
    regular = (base - 0.0) * (1 - step / steps) ** power + 0.0
    if warmup == 0 or step >= warmup:
        return regular
    k = (1 - step / warmup) * (1 - ratio)
    return regular * (1 - k)


@settings(deadline=None)
@given(
    st.integers(1, 500).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1))),
    st.sampled_from([0.0, 0.9, 1.0]),
    st.integers(0, 600),
    st.sampled_from([0.0, 1e-6, 0.5]),
)
def test_rate_is_mmsegmentations(at, power, warmup, ratio):
    steps, step = at
    config = OptimConfig(lr=6e-5, power=power, warmup_steps=warmup, warmup_ratio=ratio)
    expected = mmseg_rate(6e-5, step, steps, power, warmup, ratio)
    assert learning_rate(config, step, steps) == pytest.approx(expected, rel=1e-12)


def test_daformers_schedule_at_its_landmarks():
    config = OptimConfig(lr=6e-5, warmup_steps=1500, power=1.0)
    at = {t: learning_rate(config, t, 40_000) for t in (0, 750, 1500, 20_000, 39_999)}
    assert at[0] == pytest.approx(6e-11)
    assert at[750] == pytest.approx(6e-5 * (1 - 750 / 40_000) / 2, rel=1e-5)
    assert at[1500] == pytest.approx(6e-5 * 38_500 / 40_000)
    assert at[20_000] == pytest.approx(3e-5)
    assert at[39_999] == pytest.approx(6e-5 / 40_000)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_groups_hold_each_parameter_once_with_its_rate_and_decay(tiny_model_config, name):
    model = build_model(tiny_model_config, 5)
    config = OptimConfig(name=name, lr=0.01, head_lr_factor=10.0, weight_decay=0.05)
    optimizer = build_optimizer(config, model)
    set_learning_rate(optimizer, 0.004)
    found = {
        id(p): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(found)
    norms = {
        id(p)
        for m in model.modules()
        if isinstance(m, nn.BatchNorm2d | nn.GroupNorm)
        for p in m.parameters()
    }
    for parameter_name, p in model.named_parameters():
        rate, decay = found.pop(id(p))
        assert rate == pytest.approx(0.004 if parameter_name.startswith("encoder.") else 0.04)
        undecayed = id(p) in norms or parameter_name.endswith(".bias")
        assert decay == (0.0 if undecayed else 0.05), parameter_name
    assert not found


def test_position_embeddings_are_not_decayed(tiny_model_config):
    model = build_model(tiny_model_config, 5)
    model.encoder.pos_embed = nn.Parameter(torch.zeros(1, 4, 8))
    optimizer = build_optimizer(OptimConfig(), model)
    (group,) = [
        g for g in optimizer.param_groups if any(p is model.encoder.pos_embed for p in g["params"])
    ]
    assert group["weight_decay"] == 0
    assert group["scale"] == 1


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"lr": 0}, "lr"),
        ({"betas": [0.9, 1.0]}, "betas"),
        ({"warmup_ratio": 2}, "warmup_ratio"),
        ({"name": "adam"}, "name"),
        ({"power": -1}, "power"),
    ],
)
def test_values_out_of_range(values, field):
    with pytest.raises(ConfigError, match=rf"optim\.{field}: "):
        from_mapping(OptimConfig, values, "optim")


def undecayed_of(net, which):
    optimizer = build_optimizer(OptimConfig(weight_decay=0.1, undecayed=which), net)
    left_out = {id(p) for g in optimizer.param_groups if not g["weight_decay"] for p in g["params"]}
    return {name for name, p in net.named_parameters() if id(p) in left_out}


def test_what_weight_decay_leaves_out():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
            self.encoder.pos_embed = nn.Parameter(torch.zeros(1, 4, 2, 2))
            self.head = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 2))

    net = Net()
    expected = {
        "layer_norms": {"head.0.weight", "head.0.bias", "encoder.pos_embed"},
        "vectors": {name for name, p in net.named_parameters() if p.ndim <= 1}
        | {"encoder.pos_embed"},
        "nothing": set(),
    }
    assert len(expected["vectors"]) == 7
    for which, names in expected.items():
        assert undecayed_of(net, which) == names


def test_daformer_decays_what_its_public_code_decays():
    """custom_keys of lhoyer/DAFormer and MIC: the first of pos_block, head, norm in a name counts.

    A MiT-B0 has 8 blocks of two norms, one more in the attention of the 6 blocks above the last
    level, one behind each of 4 patch embeddings and 4 levels: 30 LayerNorms. Decoder and head have
    "head" in their names there, and their 9 BatchNorms are called "bn".
    """
    config = ModelConfig(encoder="mit_b0", decoder="daformer", head="projection")
    model = blank_model(config, 19)
    found = undecayed_of(model, "layer_norms")
    named = {n for n, _ in model.named_parameters() if n.startswith("encoder.") and "norm" in n}
    assert found == named
    assert len(found) == 2 * (8 * 2 + 6 + 4 + 4) == 60
    decayed = {n for n, p in model.named_parameters() if p.ndim == 1} - found
    norms = [n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 9
    assert {f"{n}.{part}" for n in norms for part in ("weight", "bias")} <= decayed


def test_a_resnet_decays_all_as_in_its_public_code():
    config = ModelConfig(encoder="tu-test_resnet", decoder="deeplabv2", dropout=0.0)
    assert undecayed_of(blank_model(config, 19), "layer_norms") == set()
