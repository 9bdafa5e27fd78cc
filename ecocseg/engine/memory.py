"""GPU memory of a recipe, derived on any machine: one training step without numbers.

Everything runs on PyTorch's device "meta", whose tensors have a size and no storage, and every
tensor is counted while it lives. The method and the encoding are the real ones; the network runs
once, and whenever the method calls it, a block as large as what that run holds stands for it.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ecocseg.config import from_mapping
from ecocseg.data.transforms import Sample
from ecocseg.encodings import build_encoding
from ecocseg.engine.distributed import SINGLE
from ecocseg.engine.footprint import Footprint, footprint, weights
from ecocseg.engine.meter import Meter
from ecocseg.engine.recipe import recipe_text, step_sizes
from ecocseg.engine.schedule import FitConfig
from ecocseg.engine.seed import generator
from ecocseg.errors import ConfigError
from ecocseg.methods import build_method
from ecocseg.methods.base import Context, Method, summands
from ecocseg.models.blank import META
from ecocseg.models.config import ModelConfig
from ecocseg.models.network import FeatureChange
from ecocseg.types import Outputs

CONTEXT = 500_000_000
"""Bytes that CUDA takes beside PyTorch's allocator, about; in no total, but on the card."""
# What cuDNN and cuBLAS work in, about, and the share of what a step makes that the allocator loses
# to fragments: assumed, not derived.
_WORKSPACE, _FRAGMENTS = 300_000_000, 0.1


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes on each GPU at the peak of a training step, by what holds them."""

    weights: int
    """Parameters and buffers of the student."""
    gradients: int
    optimiser: int
    teacher: int
    reference: int
    """The frozen network that features are compared with."""
    activations: int
    """What the largest summand of the loss keeps of the network, logits included."""
    labels: int
    """Beside them: images, labels, pseudo-labels and the gradient of the logits."""
    allowance: int
    """For what cuDNN and cuBLAS work in (0.3 GB) and fragments (a tenth of what a step makes)."""

    @property
    def total(self) -> int:
        """Bytes of PyTorch's allocator; the card needs `CONTEXT` beside them."""
        return sum(asdict(self).values())


def training_memory(
    *,
    model: ModelConfig,
    encoding: Mapping[str, Any],
    method: Mapping[str, Any],
    schedule: FitConfig,
    class_names: Sequence[str],
    labelled_crop: tuple[int, int],
    unlabelled_crop: tuple[int, int] | None = None,
) -> MemoryEstimate:
    """Memory of training with these settings; `encoding` and `method` hold `name` and fields.

    With `schedule.gpus` above 1 each takes its share of the batch. Precision "auto" counts as
    float32. Passes that keep nothing for a backward pass, the teacher's and the evaluation's, count
    as nothing: HRDA's over all windows of two 1024x1024 images peaks at about 4.8 GB, below the
    step's own peak in the recipes here.

    Beside published figures (float32, two images, one card) DAFormer one-hot at 512x512 comes out
    at 0.83 of the paper's 9,807 MB (Table 15, which does not say how it was measured), MIC at
    1024x1024 at 0.65 of the 23.3 GB that a user of the released code met (lhoyer/MIC#73). The
    released code keeps more, such as the source images' graph until the feature distance is
    back-propagated; whether that is all of the difference is not known without a measurement.

    Raises what building the network, the encoding or the method raises.
    """
    recipe = recipe_text(
        model, encoding, method, step_sizes(schedule), class_names, labelled_crop, unlabelled_crop
    )
    return _of_recipe(recipe).memory


@dataclass(frozen=True, kw_only=True)
class Pass:
    """A call of a network within a training step."""

    call: str
    """outputs (what is learnt from), forward (a prediction) or features (the encoder alone)."""
    images: tuple[int, int, int]
    """How many, height, width."""
    gradient: bool
    macs: float
    """Multiply-accumulates forward, by the rule of `network_cost`: of what is learnt from, whatever
    the call."""


def training_passes(
    *,
    model: ModelConfig,
    encoding: Mapping[str, Any],
    method: Mapping[str, Any],
    schedule: FitConfig,
    class_names: Sequence[str],
    labelled_crop: tuple[int, int],
    unlabelled_crop: tuple[int, int] | None = None,
) -> tuple[Pass, ...]:
    """All passes of a training step over its whole batch.

    Arguments and errors are those of `training_memory`.
    """
    # However a batch is cut or kept, as many images go through the network.
    sizes = step_sizes(replace(schedule, gpus=1, micro_batches=1, activation_checkpointing=False))
    recipe = recipe_text(
        model, encoding, method, sizes, class_names, labelled_crop, unlabelled_crop
    )
    return _of_recipe(recipe).passes


class _Step(NamedTuple):
    memory: MemoryEstimate
    passes: tuple[Pass, ...]


@lru_cache(maxsize=256)
def _of_recipe(recipe: str) -> _Step:
    values = json.loads(recipe)
    sizes, options = values["sizes"], values["method"]
    method = build_method(options.pop("name"), options)
    encoding = _encoding(values["encoding"], values["names"]).to(META)
    model = from_mapping(ModelConfig, values["model"], "model")
    network = _Network(model, encoding.channels, bf16=sizes["bf16"], recompute=sizes["recompute"])
    with Meter() as meter:
        _step(method, network, encoding, sizes, values["crops"])
    held, gradients = weights(model, encoding.channels)
    memory = MemoryEstimate(
        weights=held,
        gradients=gradients,
        optimiser=sizes["moments"] * gradients,
        teacher=held if method.uses_teacher else 0,
        reference=held if method.uses_reference else 0,
        activations=network.largest,
        labels=max(meter.peak - network.largest, 0),
        allowance=_WORKSPACE + int(_FRAGMENTS * max(meter.peak, network.largest)),
    )
    return _Step(memory, tuple(network.passes))


def _step(
    method: Method,
    network: "_Network",
    encoding: Any,
    sizes: Mapping[str, Any],
    crops: Sequence[Sequence[int]],
) -> None:
    """All summands of the loss, each with its backward pass down to the network."""
    with _WithoutValues():
        batch = {
            name: _sample(
                sizes["labelled_batch" if name == "labelled" else "unlabelled_batch"],
                crops[name != "labelled"],
                network.model.image_channels,
            )
            for name in method.streams
        }
        if method.restarts:
            batch["unlabelled"] = _with_targets(batch["unlabelled"], encoding)
        stand_in: Any = network
        context = Context(
            student=stand_in,
            teacher=stand_in if method.uses_teacher else None,
            reference=stand_in if method.uses_reference else None,
            encoding=encoding,
            step=0,
            steps=1,
            random=generator(0),
        )
        for loss in summands([method.losses(context, batch)], SINGLE):
            loss.value.backward()
            # Its graph goes before the next summand makes another, as in training.
            del loss


def _encoding(values: Mapping[str, Any], names: Sequence[str]) -> Any:
    """The encoding, with a codebook that needs no search: no size depends on its bits."""
    options = dict(values)
    name = options.pop("name")
    if name == "ecoc" and options.get("codebook") != "one-hot":
        try:
            return build_encoding(name, {**options, "codebook": "text"}, names)
        except ConfigError:
            # A data set of one's own, whose class names have no embedding.
            pass
    return build_encoding(name, options, names)


def _sample(batch: int, crop: Sequence[int], channels: int) -> Sample:
    height, width = crop
    shape = (batch, height, width)
    return Sample(
        images=torch.empty(batch, channels, height, width, device=META),
        labels=torch.empty(shape, dtype=torch.int64, device=META),
        valid=torch.empty(shape, dtype=torch.bool, device=META),
        trusted=torch.empty(shape, dtype=torch.bool, device=META),
    )


def _with_targets(sample: Sample, encoding: Any) -> Sample:
    """With stored pseudo-labels, as the later stages of a method with several read them."""
    labels = torch.zeros_like(sample.labels)
    return replace(sample, targets=encoding.pack(encoding.encode(labels)))


class _Network:
    """Stands for student, teacher and reference: results of the right size, and what they hold."""

    def __init__(self, model: ModelConfig, channels: int, *, bf16: bool, recompute: bool) -> None:
        self.model, self.channels = model, channels
        self.bf16, self.recompute = bf16, recompute
        self.largest = 0
        """Bytes of the largest call with gradient."""
        self.passes: list[Pass] = []
        self.mean = torch.empty(1, 3, 1, 1, device=META)

    def outputs(self, images: Tensor, random: torch.Generator) -> Outputs:
        """As `Segmenter.outputs`."""
        return self._outputs("outputs", images)

    def _outputs(self, call: str, images: Tensor, views: int = 0) -> Outputs:
        found = self._found(call, images, views)
        heads = tuple(replace(h, logits=_like(h.logits)) for h in found.outputs.heads)
        outputs = replace(found.outputs, heads=heads, features=_like(found.outputs.features))
        if torch.is_grad_enabled():
            results = sum(t.nbytes for t in [outputs.features, *(h.logits for h in heads)])
            rest = torch.empty(max(found.held - results, 0), dtype=torch.uint8, device=META)
            # It lives as long as the logits do, in whatever is computed of them.
            heads[0].logits.held = rest  # type: ignore[attr-defined]
            self.largest = max(self.largest, found.held)
        return outputs

    def __call__(self, images: Tensor, change: FeatureChange | None = None) -> Tensor:
        """As `Segmenter.forward`: the first head covers the whole images."""
        views = 0
        if change is not None:
            (changed,) = change([torch.empty(len(images), 1, 1, 1, device=META)])
            views = len(changed) // len(images)
        return self._outputs("forward", images, views).heads[0].logits

    def features(self, images: Tensor) -> Tensor:
        """As `Segmenter.features`."""
        return _like(self._found("features", images).outputs.features)

    training = True
    """Modes change no size."""

    def modules(self) -> Iterator["_Network"]:
        """Itself."""
        yield self

    def train(self, mode: bool = True) -> None:
        """Modes change no size."""

    def eval(self) -> None:
        """Modes change no size."""

    def _found(self, call: str, images: Tensor, views: int = 0) -> Footprint:
        size = (len(images), *images.shape[2:])
        found = footprint(
            self.model,
            self.channels,
            size,
            bf16=self.bf16,
            recompute=self.recompute,
            views=views,
        )
        gradient = torch.is_grad_enabled()
        self.passes.append(Pass(call=call, images=size, gradient=gradient, macs=found.macs))
        return found


def _like(result: Tensor) -> Tensor:
    return torch.empty_like(result, requires_grad=torch.is_grad_enabled())


class _WithoutValues(TorchFunctionMode):
    """Answers where a method looks at values."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.unique and args[0].is_meta:
            # The classes of an image: half of them are mixed, whichever they are.
            return torch.arange(8, device=META)
        return func(*args, **(kwargs or {}))
