import logging

import pytest
import torch
from safetensors.torch import save_file
from segmentation_models_pytorch.encoders import get_encoder

from ecocseg.engine.seed import seeded
from ecocseg.errors import UserError
from ecocseg.files import sha256_file
from ecocseg.models.blank import Blank
from ecocseg.models.config import ModelConfig
from ecocseg.models.segmenter import build_model
from ecocseg.models.weights import check_library_weights, load_encoder_weights, state_sha256

LOGGER = "ecocseg.models.weights"
SMALL, LARGE = (32, 64, 160, 256), (64, 128, 320, 512)
# SegFormer (Xie et al., NeurIPS 2021), Table 6: channels and blocks of the four stages; Table 1:
# million parameters of the encoder.
MIT = {
    "mit_b0": (SMALL, (2, 2, 2, 2), 3.4),
    "mit_b1": (LARGE, (2, 2, 2, 2), 13.1),
    "mit_b2": (LARGE, (3, 4, 6, 3), 24.2),
    "mit_b3": (LARGE, (3, 4, 18, 3), 44.0),
    "mit_b4": (LARGE, (3, 8, 27, 3), 60.8),
    "mit_b5": (LARGE, (3, 6, 40, 3), 81.4),
}


def released(name):
    """Names and shapes in the released file of that encoder, from the paper's hyper-parameters."""
    widths, depths, _ = MIT[name]
    shapes = {}

    def layer(name, *shape):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]

    before = 3
    # Patches of 7 and 3 pixels, reductions 8, 4, 2, 1 of keys and values, four times wider inside.
    for stage, (width, depth, patch, reduction) in enumerate(
        zip(widths, depths, (7, 3, 3, 3), (8, 4, 2, 1), strict=True), start=1
    ):
        layer(f"patch_embed{stage}.proj", width, before, patch, patch)
        layer(f"patch_embed{stage}.norm", width)
        for number in range(depth):
            block = f"block{stage}.{number}"
            layer(f"{block}.norm1", width)
            layer(f"{block}.attn.q", width, width)
            layer(f"{block}.attn.kv", 2 * width, width)
            layer(f"{block}.attn.proj", width, width)
            if reduction > 1:
                layer(f"{block}.attn.sr", width, width, reduction, reduction)
                layer(f"{block}.attn.norm", width)
            layer(f"{block}.norm2", width)
            layer(f"{block}.mlp.fc1", 4 * width, width)
            layer(f"{block}.mlp.dwconv.dwconv", 4 * width, 1, 3, 3)
            layer(f"{block}.mlp.fc2", width, 4 * width)
        layer(f"norm{stage}", width)
        before = width
    layer("head", 1000, before)
    return shapes


def file_of(shapes, path):
    """A file with those entries, all numbers of an entry the same: it takes no space."""
    entries = enumerate(shapes.items())
    torch.save({n: torch.tensor(i / 8).expand(shape) for i, (n, shape) in entries}, path)
    return path


def empty(name, **options):
    """An encoder of the library whose weights are whatever the memory holds."""
    with Blank():
        encoder = get_encoder(name, **options)
    return encoder.to_empty(device="cpu")


@pytest.mark.parametrize("name", MIT)
def test_released_segformer_weights_load_completely(name, tmp_path, caplog):
    shapes = released(name)
    encoder = empty(name)
    inside = sum(torch.Size(s).numel() for n, s in shapes.items() if not n.startswith("head."))
    assert inside / 1e6 == pytest.approx(MIT[name][2], abs=0.1)
    assert inside == sum(p.numel() for p in encoder.parameters())
    with caplog.at_level(logging.INFO, LOGGER):
        path = file_of(shapes, tmp_path / f"{name}.pth")
        checksum = load_encoder_weights(encoder, path, sha256_file(path))
    loaded = encoder.state_dict()
    assert set(loaded) == {entry for entry in shapes if not entry.startswith("head.")}
    for number, entry in enumerate(shapes):
        if entry in loaded:
            assert (loaded[entry] == number / 8).all(), entry
    (record,) = caplog.records
    share = f"{len(loaded)} of {len(loaded)} entries"
    assert f"{name}.pth, SHA-256 {checksum}, {share}" in record.message


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("block4.1.attn.kv.bias", None, "block4.1.attn.kv.bias: missing"),
        ("norm3.weight", (161,), r"norm3.weight: shape \(161,\) instead of \(160,\)"),
    ],
)
def test_segformer_weights_that_do_not_fit_are_refused(name, shape, words, tmp_path):
    shapes = released("mit_b0")
    if shape is None:
        del shapes[name]
    else:
        shapes[name] = shape
    path = file_of(shapes, tmp_path / "w.pth")
    with pytest.raises(UserError, match=f"does not fit the encoder: 1 of .*{words}"):
        load_encoder_weights(empty("mit_b0"), path)


def test_entries_without_a_place_are_named(tmp_path, caplog):
    shapes = released("mit_b0") | {"decode_head.conv.weight": (3, 3), "block9.weight": (2,)}
    with caplog.at_level(logging.WARNING, LOGGER):
        load_encoder_weights(empty("mit_b0"), file_of(shapes, tmp_path / "w.pth"))
    (record,) = caplog.records
    assert "2 entries of" in record.message
    assert "decode_head.conv.weight, block9.weight" in record.message


def test_another_file_than_the_pinned_one_is_refused(tmp_path):
    path = file_of(released("mit_b0"), tmp_path / "w.pth")
    config = ModelConfig(
        encoder="mit_b0", decoder="daformer", weights=str(path), weights_sha256="0" * 64
    )
    with pytest.raises(UserError, match=r"weights_sha256: .* instead of 000") as caught:
        build_model(config, 3)
    assert sha256_file(path) in str(caught.value)


def test_mmsegmentations_resnet_v1c_loads_completely(tmp_path, caplog):
    """Its stem is one sequence: convolution, norm and ReLU three times."""
    encoder = empty("tu-resnet50c", output_stride=8)
    shapes = {}

    def norm(name, width):
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (width,)
        shapes[f"{name}.num_batches_tracked"] = ()

    for place, (width, before) in zip((0, 3, 6), ((32, 3), (32, 32), (64, 32)), strict=True):
        shapes[f"stem.{place}.weight"] = (width, before, 3, 3)
        norm(f"stem.{place + 1}", width)
    before = 64
    for stage, (depth, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), start=1):
        for number in range(depth):
            block = f"layer{stage}.{number}"
            sizes = ((width, before, 1), (width, width, 3), (4 * width, width, 1))
            for place, (after, channels, size) in enumerate(sizes, start=1):
                shapes[f"{block}.conv{place}.weight"] = (after, channels, size, size)
                norm(f"{block}.bn{place}", after)
            if number == 0:
                shapes[f"{block}.downsample.0.weight"] = (4 * width, before, 1, 1)
                norm(f"{block}.downsample.1", 4 * width)
            before = 4 * width
    shapes |= {"fc.weight": (1000, before), "fc.bias": (1000,)}
    with caplog.at_level(logging.INFO, LOGGER):
        load_encoder_weights(encoder, file_of(shapes, tmp_path / "resnet50_v1c.pth"))
    number = {name: i / 8 for i, name in enumerate(shapes)}
    loaded = encoder.state_dict()
    assert f"{len(loaded)} of {len(loaded)} entries" in caplog.messages[0]
    assert len(caplog.messages) == 1
    for ours, theirs in {
        "conv1.0.weight": "stem.0.weight",
        "conv1.4.running_var": "stem.4.running_var",
        "conv1.6.weight": "stem.6.weight",
        "bn1.bias": "stem.7.bias",
        "layer4.0.downsample.0.weight": "layer4.0.downsample.0.weight",
        "layer3.5.bn3.weight": "layer3.5.bn3.weight",
    }.items():
        assert (loaded[f"model.{ours}"] == number[theirs]).all(), ours
    left = set(shapes) - {"fc.weight", "fc.bias"}
    assert len(left) == len(loaded)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Hugging Face's cache with weights for timm's test_resnet in it, and no connection."""
    import huggingface_hub.constants
    import timm

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--timm--test_resnet.r160_in1k"
    snapshot = folder / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("a" * 40)
    with seeded(9):
        state = timm.create_model("test_resnet", pretrained=False).state_dict()

    def put(**changes):
        save_file({**state, **changes}, snapshot / "model.safetensors")
        return state

    return put


def test_library_weights_are_proved_and_pinned(hub, caplog):
    state = hub()
    config = {"encoder": "tu-test_resnet", "decoder": "daformer", "weights": "imagenet"}
    with caplog.at_level(logging.INFO, LOGGER):
        encoder = build_model(ModelConfig(**config), 3).encoder
    assert torch.equal(encoder.model.layer4[0].conv1.weight, state["layer4.0.conv1.weight"])
    checksum = state_sha256(encoder)
    assert (
        f"imagenet of the library for tu-test_resnet, SHA-256 of the encoder {checksum}"
        in (caplog.messages[-1])
    )
    build_model(ModelConfig(**config, weights_sha256=checksum), 3)
    hub(**{"bn1.bias": state["bn1.bias"] + 1})
    with pytest.raises(UserError, match=r"model\.weights_sha256: imagenet .* instead of"):
        build_model(ModelConfig(**config, weights_sha256=checksum), 3)


def test_the_proof_does_not_change_what_is_drawn(hub):
    """Decoder and head have the first weights that they had before there was a proof."""
    hub()
    config = {"encoder": "tu-test_resnet", "decoder": "fpn"}
    states = []
    for weights in ("none", "imagenet"):
        with seeded(3):
            states.append(build_model(ModelConfig(weights=weights, **config), 3).state_dict())
    others = [name for name in states[0] if not name.startswith("encoder.")]
    assert others
    assert all(torch.equal(states[0][name], states[1][name]) for name in others)


def test_a_tensor_that_is_still_as_it_was_drawn_is_refused(hub):
    """The file's content for one tensor is what that seed draws: as if it had not been loaded."""
    config = {"encoder": "tu-test_resnet", "decoder": "daformer"}
    with seeded(3):
        drawn = build_model(ModelConfig(**config), 3).encoder.model.layer4[0].conv1.weight
    hub(**{"layer4.0.conv1.weight": drawn.detach()})
    with seeded(3), pytest.raises(UserError, match=r"left 1 of .*layer4\.0\.conv1"):
        build_model(ModelConfig(weights="imagenet", **config), 3)


def test_library_weights_that_were_not_loaded_are_refused():
    with seeded(1):
        first = get_encoder("tu-test_resnet")
    with seeded(2):
        loaded = get_encoder("tu-test_resnet")
    check_library_weights(loaded, first, "imagenet")
    last = loaded.model.layer4[0].conv1.weight
    last.data.copy_(first.model.layer4[0].conv1.weight)
    with pytest.raises(
        UserError, match=r"left 1 of \d+ weight tensors as they were.*layer4\.0\.co"
    ):
        check_library_weights(loaded, first, "imagenet")


def test_a_checksum_of_a_state_is_of_names_types_shapes_and_values():
    module = torch.nn.Linear(2, 3)
    first = state_sha256(module)
    assert first == state_sha256(module)
    module.bias.data[0] += 1
    changed = state_sha256(module)
    assert changed != first
    module.bias.data[0] -= 1
    renamed = torch.nn.Module()
    renamed.weight, renamed.bios = module.weight, module.bias
    assert len({first, changed, state_sha256(renamed), state_sha256(module.double())}) == 4
