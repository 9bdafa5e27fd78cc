import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ecocseg.config import from_mapping
from ecocseg.engine.seed import seeded
from ecocseg.errors import ConfigError, UserError
from ecocseg.files import sha256_file
from ecocseg.models.segmenter import ModelConfig, build_model, parameter_groups
from ecocseg.models.weights import load_encoder_weights


@pytest.fixture(scope="module")
def network(tiny_model_config):
    return build_model(tiny_model_config, 5).eval()


@pytest.fixture(scope="module")
def resnet():
    """torchvision's layout of names, as in the .pth files of the UDA recipes."""
    config = ModelConfig(encoder="resnet18", decoder="linknet")
    with seeded(1):
        return build_model(config, 3)


def test_padding_is_inside_and_cropped_off(network):
    """An image whose border is already repeated gives the same logits at its pixels."""
    image = torch.rand(1, 3, 40, 50, generator=torch.Generator().manual_seed(0))
    padded = nn.functional.pad(image, (0, 14, 0, 24), mode="replicate")
    with torch.no_grad():
        small, large = network(image), network(padded)
    assert padded.shape[-2:] == (64, 64)
    torch.testing.assert_close(small, large[..., :40, :50])


def test_images_are_normalised_inside(network):
    """The encoder sees what torchvision's ImageNet normalisation makes of the image."""
    seen = []
    handle = network.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        network(image)
    handle.remove()
    for c, (mean, deviation) in enumerate([(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)]):
        torch.testing.assert_close(seen[0][0, c], (image[0, c] - mean) / deviation)


def test_heads(tiny_model_config):
    from dataclasses import replace

    linear = build_model(tiny_model_config, 40).head
    convolutions = [m for m in linear if isinstance(m, nn.Conv2d)]
    assert [(c.kernel_size, c.out_channels) for c in convolutions] == [((1, 1), 40)]
    config = replace(tiny_model_config, head="projection", dropout=0.3)
    projection = build_model(config, 40)
    kinds = [type(m) for m in projection.head]
    assert kinds == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Dropout2d, nn.Conv2d]
    assert projection.head[0].kernel_size == (3, 3)
    assert projection.head[0].out_channels == projection.head[4].in_channels == 128
    assert projection.head[3].p == 0.3
    assert projection(torch.rand(2, 3, 32, 64)).shape == (2, 40, 32, 64)


def test_parameter_groups_hold_each_parameter_once(network):
    encoder, others = parameter_groups(network)
    assert {id(p) for p in encoder} == {id(p) for p in network.encoder.parameters()}
    every = [id(p) for p in [*encoder, *others]]
    assert sorted(every) == sorted(id(p) for p in network.parameters())


def test_the_seed_decides_the_first_weights(tiny_model_config):
    states = []
    for seed in (1, 1, 2):
        with seeded(seed, "weights"):
            states.append(build_model(tiny_model_config, 5).state_dict())
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert any(not torch.equal(states[0][k], states[2][k]) for k in states[0])


def test_names_of_buffers_and_parameters_alone_are_in_the_state(network):
    assert not {"mean", "deviation"} & set(network.state_dict())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_local_weights_are_loaded_completely(resnet, tmp_path, suffix):
    path = tmp_path / f"resnet18{suffix}"
    state = {
        k: torch.rand_like(v) if v.is_floating_point() else v + 7
        for k, v in resnet.encoder.state_dict().items()
    }
    content = {**state, "fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    if suffix == ".pth":
        torch.save({"state_dict": content, "epoch": 3}, path)
    else:
        save_file(content, path)
    model = build_model(ModelConfig(encoder="resnet18", decoder="linknet", weights=str(path)), 3)
    loaded = model.encoder.state_dict()
    assert set(loaded) == set(state)
    assert all(torch.equal(loaded[name], value) for name, value in state.items())
    assert load_encoder_weights(model.encoder, path) == sha256_file(path)


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
def test_timms_own_files_fit_its_encoders(name, tmp_path):
    """timm's files name a network's parts without the library's prefix."""
    import timm

    path = tmp_path / "model.safetensors"
    state = timm.create_model(name, pretrained=False).state_dict()
    save_file(state, path)
    config = ModelConfig(encoder=f"tu-{name}", decoder="fpn", weights=str(path))
    loaded = build_model(config, 3).encoder.state_dict()
    image = torch.rand(1, 3, 64, 64)
    features = timm.create_model(name, pretrained=False, features_only=True)
    features.load_state_dict({k.removeprefix("model."): v for k, v in loaded.items()})
    whole = timm.create_model(name, pretrained=False)
    whole.load_state_dict(state)
    with torch.no_grad():
        last = whole.eval().forward_intermediates(image, norm=False)[1][-1]
        torch.testing.assert_close(features.eval()(image)[-1], last)


def test_weights_that_do_not_fit(resnet, tmp_path):
    state = resnet.encoder.state_dict()
    short = {k: v for k, v in state.items() if k != "layer4.1.conv2.weight"}
    other = {**state, "conv1.weight": torch.zeros(64, 1, 7, 7)}
    for content, words in ((short, "layer4.1.conv2.weight: missing"), (other, "instead of (64, 3")):
        torch.save(content, tmp_path / "w.pth")
        with pytest.raises(UserError, match="does not fit the encoder: 1 of") as caught:
            load_encoder_weights(resnet.encoder, tmp_path / "w.pth")
        assert words in str(caught.value)


def test_weight_files_that_cannot_be_read(resnet, tmp_path):
    path = tmp_path / "w.pth"
    with pytest.raises(UserError, match=r"w\.pth is not there"):
        load_encoder_weights(resnet.encoder, path)
    torch.save(resnet.encoder.state_dict(), path)
    whole = path.read_bytes()
    for damaged in (whole[:1000], b"", b"<html>login</html>"):
        path.write_bytes(damaged)
        path.with_suffix(".safetensors").write_bytes(damaged)
        for name in (path, path.with_suffix(".safetensors")):
            with pytest.raises(UserError, match=r"cannot be read as weights.*download it again"):
                load_encoder_weights(resnet.encoder, name)
    torch.save(torch.zeros(3), path)
    with pytest.raises(UserError, match="holds a Tensor, expected is a state dict"):
        load_encoder_weights(resnet.encoder, path)


@pytest.mark.parametrize("encoder", ["resnet18", "tu-test_resnet"])
def test_weights_of_the_library_without_a_connection(encoder, monkeypatch, tmp_path):
    import huggingface_hub.constants

    # What HF_HUB_OFFLINE=1 and an empty cache set when the process starts.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    config = ModelConfig(encoder=encoder, decoder="linknet", weights="imagenet")
    with pytest.raises(UserError, match=r"model\.weights: 'imagenet'.*could not be had") as caught:
        build_model(config, 3)
    assert not isinstance(caught.value, ConfigError)
    assert "model.weights=/path/to/file.pth" in str(caught.value)
    assert "model.weights=none" in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"encoder": "resnet19"}, "model.encoder: unknown encoder 'resnet19'; did you mean"),
        ({"encoder": "tu-resnet10s"}, "'tu-resnet10"),
        ({"encoder": "tu-no_such_thing_at_all"}, "unknown encoder 'tu-no_such_thing_at_all'"),
        ({"weights": "imgnet"}, "model.weights: Wrong pretrained weights `imgnet`"),
        ({"encoder": "tu-test_resnet", "weights": "ssl"}, "model.weights: got 'ssl', allowed"),
        ({"decoder_channels": 32}, "model.decoder_channels: not for the decoder 'linknet'"),
        ({"decoder": "fpn", "decoder_channels": 20}, "do not go together"),
        ({"encoder": "mit_b0"}, "encoder 'mit_b0', decoder 'linknet'"),
    ],
)
def test_what_cannot_be_built_is_named(fields, words):
    config = ModelConfig(**({"encoder": "resnet18", "decoder": "linknet"} | fields))
    with pytest.raises(ConfigError) as caught:
        build_model(config, 3)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"decoder": "deeplab"},
            "model.decoder: unknown value 'deeplab'; did you mean 'deeplabv3'",
        ),
        ({"dropout": 1}, "model.dropout: got 1.0"),
        ({"decoder_channels": 0}, "model.decoder_channels: got 0"),
        ({"decoder": "fpn", "output_stride": 8}, "model.output_stride: got 8"),
        ({"head": "lineer"}, "did you mean 'linear'"),
    ],
)
def test_values_out_of_range(values, words):
    with pytest.raises(ConfigError) as caught:
        from_mapping(ModelConfig, values, "model")
    assert words in str(caught.value)
