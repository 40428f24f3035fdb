"""Networks that were not written for raybd: what the linear layer at their end reads are their features."""

import copy
from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.models.base import Classifier, Shape
from raybd.seeds import forked_rng

NAMED = "last_layer"  # attribute of a network that names its last linear layer
_reasons: "WeakKeyDictionary[nn.Module, str]" = WeakKeyDictionary()  # why a network tells no features


class AdaptedClassifier(Classifier):
    """A network that ends in a linear layer, as a `Classifier`: the same logits, weights and random draws.

    It is given images in [0, 1]; if it normalises them, that is part of its features.
    """

    def __init__(self, body: nn.Module, head: nn.Linear, noise: float = 0.0) -> None:
        """`head` is taken out of `body`, by all the names that it has there; it reads its features with `noise`."""
        super().__init__((0.0,), (1.0,), noise)
        for name, module in list(body.named_modules(remove_duplicate=False)):
            if module is head:
                body.set_submodule(name, nn.Identity())
        self.body, self.head = body, head

    def normalise(self, x: Tensor) -> Tensor:
        """`x` as it is."""
        return x

    def features(self, x: Tensor) -> Tensor:
        """What the last linear layer reads for the images `x` (N, C, H, W) in [0, 1]: (N, D)."""
        features: Tensor = self.body(x)
        return features


def as_classifier(model: nn.Module, shape: Shape, noise: float = 0.0) -> nn.Module:
    """`model` for images of `shape` as a `Classifier`, in place, whose head reads its features with `noise`; as it is
    where it cannot be (`feature_problem` says why).

    A forward pass finds the linear layer whose output the logits are, or the attribute `last_layer` of the network
    names it; passes of copies, in evaluation and in training, check that it is the whole end.
    """
    if isinstance(model, Classifier):
        return model
    found = _last_linear(model, shape)
    if isinstance(found, nn.Linear) and not (reason := _end_problem(model, found, shape)):
        return AdaptedClassifier(model, found, noise).train(model.training)
    _reasons[model] = found if isinstance(found, str) else reason
    return model


def feature_problem(model: nn.Module) -> str:
    """Why `model` tells no features, and what to do; "" if it does."""
    if isinstance(model, Classifier):
        return ""
    name, reason = type(model).__name__, _reasons.get(model, "of another end")
    return f"{name} is no raybd.models.Classifier, and no network whose logits a linear layer gives: {reason}"


def _images(shape: Shape) -> Tensor:
    return torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))


def _last_linear(model: nn.Module, shape: Shape) -> nn.Linear | str:
    """The linear layer whose output are the logits of `model`, or why there is none."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    if (named := getattr(model, NAMED, None)) is not None:
        return layers.get(str(named), f"{NAMED} is {named!r}, and its linear layers are {', '.join(layers) or 'none'}")
    outputs: dict[str, list[Tensor]] = {name: [] for name in layers}
    hooks = [module.register_forward_hook(_keep(outputs[name])) for name, module in layers.items()]
    try:
        logits = _run(model, _images(shape), training=False)
    finally:
        for hook in hooks:
            hook.remove()
    ends = [name for name, found in outputs.items() if any(_equal(output, logits) for output in found)]
    if ends:
        return layers[ends[-1]]
    last = next((name for name, found in reversed(outputs.items()) if found), "")
    after = f"something comes after {last!r}, its last one (return the logits, without a softmax)"
    return after if last else "it has no linear layer"


def _keep(outputs: list[Tensor]) -> Callable[[nn.Module, object, Tensor], None]:
    def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
        outputs.append(output)

    return hook


def _end_problem(model: nn.Module, head: nn.Linear, shape: Shape) -> str:
    """Why the layer `head` is not the whole end of `model`; "" if it is."""
    names = [name for name, module in model.named_modules(remove_duplicate=False) if module is head]
    own = {f"{name}.{weight}" for name in names for weight, _ in head.named_parameters()}
    weights = {id(weight) for weight in head.parameters()}
    shared = [n for n, w in model.named_parameters(remove_duplicate=False) if id(w) in weights and n not in own]
    if "" in names:
        return "it is a linear layer, and nothing before it"
    if shared:
        return f"the weights of {names[0]!r} are also those of {', '.join(shared)}"
    try:
        alike = all(_same(model, names[0], shape, training) for training in (False, True))
    except Exception as error:  # noqa: BLE001 - a network of others raises what it likes
        return f"without {names[0]!r} it fails: {type(error).__name__}: {error}"
    return "" if alike else f"{names[0]!r} is used more than once, or its logits are more than the output of it"


def _same(model: nn.Module, name: str, shape: Shape, training: bool) -> bool:
    """Whether a copy of `model` without its layer `name` gives one row of features each, from which that makes the same
    logits as `model`."""
    whole, body = copy.deepcopy(model), copy.deepcopy(model)
    head = body.get_submodule(name)
    assert isinstance(head, nn.Linear)
    adapted, x = AdaptedClassifier(body, head), _images(shape)
    expected, got = _run(whole, x, training), _run(adapted, x, training)
    read = _run(adapted.body, x, training=False)
    linear = F.linear(read, head.weight, head.bias)
    return read.shape == (len(x), head.in_features) and _equal(got, expected) and _equal(_run(head, read), linear)


def _run(model: nn.Module, x: Tensor, training: bool = False) -> Tensor:
    """What `model` returns for `x`, with random draws that are always the same; its mode stays as it was."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.train(training)
        with torch.no_grad(), forked_rng(0, "trial", device=x.device):
            output: Tensor = model(x)
        return output
    finally:
        for module, mode in modes:
            module.training = mode


def _equal(one: object, other: object) -> bool:
    return (
        isinstance(one, Tensor) and isinstance(other, Tensor) and one.shape == other.shape and torch.equal(one, other)
    )
