"""GPU memory of a recipe, derived on any machine: one training step without numbers.

Network, method and encoding are the real ones, on PyTorch's device "meta", whose tensors have a
size and no storage. Every tensor that the step makes is counted while it lives, so that the peak
holds activations, what the backward pass adds to them, and labels and logits, however many
summands a method has and whatever recomputes its activations.
"""

import json
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from ecocseg.config import from_mapping
from ecocseg.engine.fit import FitConfig
from ecocseg.engine.seed import generator
from ecocseg.models.config import ModelConfig

CONTEXT = 500_000_000
"""Bytes that CUDA takes beside PyTorch's allocator, about; in no total, but on the card."""
_ROUNDING = 512
# What the libraries' matrix products and convolutions work in, about.
_WORKSPACE = 300_000_000
_META = torch.device("meta")


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
    """What the step makes beside gradients: activations, their gradients, labels and logits."""
    workspace: int
    """An allowance for what cuDNN and cuBLAS work in."""

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
    float32. Evaluation, which keeps nothing for a backward pass, and what the allocator loses to
    fragments are not in it.

    Against published figures: DAFormer (MiT-B5, 512x512, two images, one-hot) comes out at 7.6 GB,
    where the paper's Table 15 has 9,807 MB (no more is said of how they were measured); see
    tests/engine/test_memory.py for the others.

    Raises what building the network, the encoding or the method raises.
    """
    # One-hot or K bits: the memory depends on how many channels there are, not on the code.
    recipe = {
        "model": asdict(replace(model, weights="none", weights_sha256=None)),
        "encoding": _plain_code(encoding),
        "method": dict(method),
        "schedule": _sizes(schedule),
        "names": list(class_names),
        "crops": [list(labelled_crop), list(unlabelled_crop or labelled_crop)],
    }
    return _of_recipe(json.dumps(recipe, sort_keys=True, default=list))


def _plain_code(encoding: Mapping[str, Any]) -> dict[str, Any]:
    """The encoding with a codebook that needs neither a search nor embeddings."""
    plain = dict(encoding)
    if plain.get("name") == "ecoc" and plain.get("codebook") != "one-hot":
        plain["codebook"] = "mmd"
    return plain


def _sizes(schedule: FitConfig) -> dict[str, Any]:
    """The fields of a schedule that decide how much memory a step takes."""
    names = ("labelled_batch", "unlabelled_batch", "micro_batches", "activation_checkpointing")
    sizes = {name: getattr(schedule, name) for name in names}
    for name in ("labelled_batch", "unlabelled_batch"):
        sizes[name] = -(-sizes[name] // schedule.gpus)
    # A batch of one image is not cut further.
    batches = [size for size in (sizes["labelled_batch"], sizes["unlabelled_batch"]) if size]
    if any(size % schedule.micro_batches for size in batches):
        sizes["micro_batches"] = 1
    return sizes | {
        "precision": schedule.precision.replace("auto", "fp32"),
        "optim": {"name": schedule.optim.name, "momentum": schedule.optim.momentum},
    }


@lru_cache(maxsize=256)
def _of_recipe(recipe: str) -> MemoryEstimate:
    # Imported here: they import the model libraries, which takes seconds.
    from ecocseg.encodings import build_encoding
    from ecocseg.engine.fit import Trainer, _micro_batches
    from ecocseg.methods import build_method
    from ecocseg.models.cost import OnMeta
    from ecocseg.models.segmenter import build_model

    values = json.loads(recipe)
    precision = values["schedule"].pop("precision")
    config = from_mapping(FitConfig, {"steps": 1, **values["schedule"]}, "schedule")
    encoding, method = dict(values["encoding"]), dict(values["method"])
    built = build_method(method.pop("name"), method)
    encoder = build_encoding(encoding.pop("name"), encoding, values["names"])
    state = torch.get_rng_state()
    with OnMeta():
        network = build_model(from_mapping(ModelConfig, values["model"], "model"), encoder.channels)
    torch.set_rng_state(state)
    trainer = Trainer(
        config, model=network, encoding=encoder, method=built, device=_META, seed=0
    )
    batch = {name: _sample(name, config, values["crops"]) for name in built.streams}
    trainer.student.train()
    if trainer.teacher is not None:
        built.prepare_teacher(trainer.teacher)

    meter = _Meter([trainer.student, trainer.teacher, trainer.reference])
    with _StandIn(trainer.student, bf16=precision == "bf16"), meter:
        # The second of several micro-batches finds the gradients of the first.
        for part in islice(_micro_batches(batch, config.micro_batches), 2):
            trainer._accumulate(part, generator(0), 1.0)
    weights = _bytes(trainer.student)
    gradients = sum(p.numel() * p.element_size() for p in trainer.student.parameters())
    moments = 2 if config.optim.name == "adamw" else int(config.optim.momentum > 0)
    return MemoryEstimate(
        weights=weights,
        gradients=gradients,
        optimiser=moments * gradients,
        teacher=_bytes(trainer.teacher),
        reference=_bytes(trainer.reference),
        activations=max(meter.peak - gradients, 0),
        workspace=_WORKSPACE,
    )


def _sample(stream: str, config: FitConfig, crops: Sequence[Sequence[int]]) -> Any:
    """A batch of a stream, without numbers."""
    from ecocseg.data.transforms import Sample

    labelled = stream == "labelled"
    size = config.labelled_batch if labelled else config.unlabelled_batch
    height, width = crops[0] if labelled else crops[1]
    shape = (size, height, width)
    return Sample(
        images=torch.empty(size, 3, height, width, device=_META),
        labels=torch.empty(shape, dtype=torch.int64, device=_META),
        valid=torch.empty(shape, dtype=torch.bool, device=_META),
        trusted=torch.empty(shape, dtype=torch.bool, device=_META),
    )


def _bytes(network: nn.Module | None) -> int:
    if network is None:
        return 0
    return sum(
        tensor.numel() * tensor.element_size()
        for tensor in [*network.parameters(), *network.buffers()]
    )


class _Meter(TorchDispatchMode):
    """Counts the storages that operations make, beside those of `networks`, while they live."""

    def __init__(self, networks: Sequence[nn.Module | None]) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: dict[int, Any] = {}
        for network in networks:
            if network is not None:
                for tensor in [*network.parameters(), *network.buffers()]:
                    storage = tensor.untyped_storage()
                    self._known[id(storage)] = weakref.ref(storage)

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return tree_map_only(Tensor, self._count, func(*args, **(kwargs or {})))

    def _count(self, tensor: Tensor) -> Tensor:
        if tensor.device.type == "meta":
            storage = tensor.untyped_storage()
            known = self._known.get(id(storage))
            if known is None or known() is not storage:
                size = -(-storage.nbytes() // _ROUNDING) * _ROUNDING
                self._known[id(storage)] = weakref.ref(storage)
                weakref.finalize(storage, self._forget, size)
                self.live += size
                self.peak = max(self.peak, self.live)
        return tensor

    def _forget(self, size: int) -> None:
        self.live -= size


class _StandIn(TorchFunctionMode):
    """What "meta" lacks: an answer where the values decide, and autocast."""

    def __init__(self, network: nn.Module, *, bf16: bool) -> None:
        super().__init__()
        self.bf16 = bf16
        self._inside: list[nn.Module | None] = []
        if bf16:
            for module in network.modules():
                module.register_forward_pre_hook(self._begin)
                module.register_forward_hook(self._end, always_call=True)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if func is torch.unique and args[0].device.type == "meta":
            # Of the classes of an image: half of them are mixed, whichever they are.
            return torch.arange(8, device=_META)
        if func is torch.Tensor.backward:
            self._inside.append(None)
            try:
                return func(*args, **options)
            finally:
                self._inside.pop()
        if self.bf16 and func in _IN_BF16:
            args, options = tree_map_only(Tensor, _narrowed, (args, options))
        elif self.bf16 and func in _IN_FP32:
            args, options = tree_map_only(Tensor, _widened, (args, options))
        return func(*args, **options)

    def _begin(self, module: nn.Module, inputs: Any) -> None:
        # No mode reaches into a backward pass: modules that run again in there bring it.
        if self._inside and self._inside[-1] is None:
            self._inside.append(module)
            self.__enter__()

    def _end(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self._inside and self._inside[-1] is module:
            self._inside.pop()
            self.__exit__(None, None, None)


_IN_BF16 = {
    torch.conv1d,
    torch.conv2d,
    torch.conv_transpose2d,
    nn.functional.conv2d,
    nn.functional.linear,
    nn.functional.scaled_dot_product_attention,
    torch.matmul,
    torch.bmm,
    torch.mm,
    torch.Tensor.matmul,
    torch.Tensor.__matmul__,
    torch.Tensor.__rmatmul__,
}
_IN_FP32 = {
    nn.functional.cross_entropy,
    nn.functional.layer_norm,
    nn.functional.softmax,
    torch.softmax,
    torch.Tensor.softmax,
    torch.layer_norm,
    torch.linalg.vector_norm,
}


def _narrowed(tensor: Tensor) -> Tensor:
    on_device = tensor.device.type == "meta" and tensor.dtype == torch.float32
    return tensor.bfloat16() if on_device else tensor


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor
