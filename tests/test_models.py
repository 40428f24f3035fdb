"""Models: their parts, sizes and seeds against formulae and hand-written references, and every refusal."""

import io
import pickle
from typing import cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.errors import InputError
from raybd.models import MODELS, Classifier, build_model
from raybd.models.adapted import AdaptedClassifier
from raybd.models.base import scale_channels
from raybd.models.resnet import BasicBlock, PreActBlock, ResNet
from tests.conftest import check_model

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64)]
TORCHVISION = ["torchvision:mobilenet_v3_small", "torchvision:resnet18"]
CASES = [(name, shape) for name in MODELS for shape in SHAPES] + [
    (name, shape) for name in TORCHVISION for shape in SHAPES[1:3]
]
CASES += [("torchvision:densenet121", shape) for shape in ((1, 32, 32), (3, 32, 32))]
SIZES = [("small_cnn", 0.25, 2), ("small_cnn", 0.5, 4), ("small_cnn", 2.0, 5)] + [
    (name, width, depth)
    for name in ("resnet18", "preact_resnet18")
    for width, depth in ((0.5, 10), (0.25, 18), (0.125, 34))
]
OWN = f"{__name__}:"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def make(
    name: str,
    shape: tuple[int, int, int] = (1, 8, 8),
    width: float = 1.0,
    depth: int | None = None,
    seed: int = 0,
    classes: int = 10,
) -> Classifier:
    """The model `name` for `shape`, of the weights that `seed` draws."""
    torch.manual_seed(seed)
    mean, std = [0.3, 0.4, 0.5][: shape[0]], [0.2, 0.25, 0.3][: shape[0]]
    return cast("Classifier", build_model(name, shape, classes, mean, std, width=width, depth=depth))


def shaken(module: nn.Module) -> nn.Module:
    """`module` in eval mode, with every batch norm's scale, shift and averages drawn at random."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for values in (part.weight.data, part.running_var):
                assert values is not None
                values.uniform_(0.5, 1.5)
            for values in (part.bias.data, part.running_mean):
                assert values is not None
                values.normal_()
    return module.eval()


def images(shape: tuple[int, int, int], count: int = 3) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(7))


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


# What every model is


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_features_and_head(name: str, shape: tuple[int, int, int]) -> None:
    model = shaken(make(name, shape, width=1.0 if ":" in name else 0.25))
    assert isinstance(model, Classifier)
    x = images(shape)
    with torch.no_grad():
        features = model.features(model.normalise(x))
        logits = model(x)
    assert features.shape == (3, model.feature_size)
    assert logits.shape == (3, 10)
    assert torch.equal(logits, F.linear(features, model.head.weight, model.head.bias))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("name", "width", "depth"), SIZES)
def test_logits_at_every_size(name: str, width: float, depth: int, shape: tuple[int, int, int]) -> None:
    logits = make(name, shape, width, depth, classes=7)(images(shape, 2))
    assert (logits.shape, logits.dtype) == ((2, 7), torch.float32)
    assert not torch.equal(logits[0], logits[1])


@pytest.mark.parametrize(
    ("name", "size"), [("mobilenet_v3_small", 1024), ("resnet18", 512), ("resnet50", 2048), ("densenet121", 1024)]
)
def test_torchvision_feature_size(name: str, size: int) -> None:
    with torch.device("meta"):
        assert make(f"torchvision:{name}", (3, 32, 32)).feature_size == size


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_train_step_reaches_every_parameter(name: str, shape: tuple[int, int, int]) -> None:
    model = make(name, shape, width=1.0 if ":" in name else 0.25).train()
    F.cross_entropy(model(images(shape, 4)), torch.arange(4)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_normalise_by_hand() -> None:
    model = build_model("small_cnn", (2, 8, 8), 10, [0.5, 0.25], [0.25, 0.5])
    x = torch.full((1, 2, 8, 8), 0.75)
    z = cast("Classifier", model).normalise(x)
    assert torch.equal(z[0, 0], torch.full((8, 8), 1.0))  # (0.75 - 0.5) / 0.25
    assert torch.equal(z[0, 1], torch.full((8, 8), 1.0))  # (0.75 - 0.25) / 0.5
    z = cast("Classifier", model).normalise(torch.zeros(1, 2, 8, 8))
    assert z[0, :, 0, 0].tolist() == [-2.0, -0.5]


@pytest.mark.parametrize("name", [*MODELS, TORCHVISION[0]])
def test_seed_decides_the_weights(name: str) -> None:
    first, again, other = (make(name, (3, 32, 32), seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    drawn = [key for key in first if key.endswith("weight") and first[key].ndim > 1]
    assert len(drawn) > 3
    assert not any(torch.equal(first[key], other[key]) for key in drawn)


@pytest.mark.parametrize("name", [*MODELS, TORCHVISION[0], "tests.misbehaving:healthy"])
def test_a_check_before_does_not_change_the_weights(name: str) -> None:
    alone = make(name, (3, 34, 34)).state_dict()
    torch.manual_seed(0)
    assert check_model(name, (3, 34, 34), 10, 1.0, None) == []
    after = build_model(name, (3, 34, 34), 10, [0.3, 0.4, 0.5], [0.2, 0.25, 0.3]).state_dict()
    assert alone.keys() == after.keys()
    assert all(torch.equal(alone[key], after[key]) for key in alone)


@pytest.mark.parametrize("name", [*MODELS, TORCHVISION[0]])
def test_batch_and_memory_format_change_nothing(name: str) -> None:
    model, x = shaken(make(name, (3, 32, 32), width=1.0 if ":" in name else 0.25)), images((3, 32, 32), 5)
    with torch.no_grad():
        whole = model(x)
        single = torch.cat([model(image[None]) for image in x])
        last = model.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
    scale = float(whole.abs().max())
    torch.testing.assert_close(single / scale, whole / scale, atol=1e-5, rtol=0)
    torch.testing.assert_close(last / scale, whole / scale, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", [*MODELS, TORCHVISION[0]])
def test_state_goes_to_disk_and_back(name: str) -> None:
    model, file = make(name, (1, 28, 28)), io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = make(name, (1, 28, 28), seed=1)
    other.load_state_dict(torch.load(file, weights_only=True))
    x = images((1, 28, 28))
    assert torch.equal(model.eval()(x), other.eval()(x))
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), model(x))


# Sizes


@pytest.mark.parametrize("width", [0.25, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("depth", [2, 3, 4, 5])
def test_small_cnn_counts(width: float, depth: int) -> None:
    channels = [3, *(int(16 * 2**i * width) for i in range(depth))]
    model = make("small_cnn", (3, 32, 32), width, depth, classes=7)
    blocks = sum(9 * a * b + 2 * b for a, b in zip(channels, channels[1:], strict=False))
    assert count(model) == blocks + 7 * (channels[-1] + 1)
    assert [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)] == channels[1:]
    assert model.feature_size == channels[-1]


def test_small_cnn_count_by_hand() -> None:
    convolutions = 9 * 1 * 16 + 9 * 16 * 32 + 9 * 32 * 64
    norms = 2 * (16 + 32 + 64)
    assert count(make("small_cnn")) == convolutions + norms + 64 * 10 + 10 == 24_058


def test_small_cnn_against_its_definition() -> None:
    """Convolution, norm, ReLU thrice, with 2x2 maxima between; then the average of each channel."""
    model = shaken(make("small_cnn", (3, 28, 28)))
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    x = out = torch.randn(2, 3, 28, 28)
    for position, (conv, bn) in enumerate(zip(convs, norms, strict=True)):
        out = F.max_pool2d(out, 2) if position else out
        out = norm(F.conv2d(out, conv.weight, padding=1), bn).clamp(min=0)
    assert out.shape == (2, 64, 7, 7)
    torch.testing.assert_close(cast("Classifier", model).features(x), out.sum((2, 3)) / 49)


@pytest.mark.parametrize(("side", "sides"), [(8, [8, 4, 2, 2, 2]), (28, [28, 14, 7, 3, 3]), (64, [64, 32, 16, 8, 4])])
def test_small_cnn_pools_as_size_allows(side: int, sides: list[int]) -> None:
    model, seen = make("small_cnn", (1, side, side), depth=5), []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _module, _input, out: seen.append(out.shape[-1]))
    model.eval()(images((1, side, side)))
    assert seen == sides


def blocks_of(depth: int) -> tuple[int, ...]:
    return {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}[depth]


def resnet_count(channels: list[int], stages: tuple[int, ...], classes: int, preact: bool) -> int:
    """Weights of 3x3 convolutions, batch norms (2 a channel) and shortcuts, counted layer by layer."""
    total, before = 3 * channels[0] * 9 + (0 if preact else 2 * channels[0]), channels[0]
    for after, blocks in zip(channels, stages, strict=True):
        for _ in range(blocks):
            norms = before + after if preact else 2 * after
            total += 9 * before * after + 9 * after * after + 2 * norms
            if before != after:
                total += before * after + (0 if preact else 2 * after)
            before = after
    return total + (2 * before if preact else 0) + (before + 1) * classes


@pytest.mark.parametrize("depth", [10, 18, 34])
@pytest.mark.parametrize("name", ["resnet18", "preact_resnet18"])
def test_resnet_counts(name: str, depth: int) -> None:
    for width in (0.125, 0.25):
        channels = [int(c * width) for c in (64, 128, 256, 512)]
        model = make(name, (3, 32, 32), width, depth)
        assert count(model) == resnet_count(channels, blocks_of(depth), 10, name.startswith("preact"))
        assert model.feature_size == channels[-1]
        blocks = [m for m in model.modules() if isinstance(m, BasicBlock | PreActBlock)]
        assert len(blocks) == sum(blocks_of(depth)) == (depth - 2) // 2


def test_resnet18_has_the_published_count() -> None:
    assert count(make("resnet18", (3, 32, 32))) == 11_173_962
    assert resnet_count([64, 128, 256, 512], (2, 2, 2, 2), 10, preact=False) == 11_173_962


def test_preact_resnet18_count_by_hand() -> None:
    """What pre-activation takes from ResNet-18 and adds to it, two numbers for each channel of a batch norm."""
    stem = -2 * 64
    first_norms = 2 * (64 - 128) + 2 * (128 - 256) + 2 * (256 - 512)  # they stand before the wider convolution
    shortcuts = -2 * (128 + 256 + 512)  # bare convolutions
    end = 2 * 512
    expected = 11_173_962 + stem + first_norms + shortcuts + end
    assert expected == resnet_count([64, 128, 256, 512], (2, 2, 2, 2), 10, preact=True) == 11_172_170
    assert count(make("preact_resnet18", (3, 32, 32))) == expected


@pytest.mark.parametrize(
    ("width", "channels"),
    [
        (0.001, [4, 4, 4, 4]),
        (1 / 32, [4, 4, 8, 16]),
        (0.25, [16, 32, 64, 128]),
        (0.5, [32, 64, 128, 256]),
        (2.0, [128, 256, 512, 1024]),
    ],
)
@pytest.mark.parametrize("name", ["resnet18", "preact_resnet18"])
def test_width_multiplies_the_channels_of_a_resnet(name: str, width: float, channels: list[int]) -> None:
    with torch.device("meta"):
        model = make(name, (3, 32, 32), width)
    blocks = [m for m in model.modules() if isinstance(m, BasicBlock | PreActBlock)]
    assert [b.conv1.out_channels for b in blocks] == [c for c in channels for _ in range(2)]
    assert [b.conv2.out_channels for b in blocks] == [c for c in channels for _ in range(2)]
    assert [b.conv1.stride[0] for b in blocks] == [1, 1, 2, 1, 2, 1, 2, 1]
    assert next(m for m in model.modules() if isinstance(m, nn.Conv2d)).out_channels == channels[0]


def test_the_narrowest_small_cnn_has_four_channels() -> None:
    for width, channels in ((0.01, [4, 4, 4]), (0.125, [4, 4, 8])):
        model = make("small_cnn", width=width)
        assert [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)] == channels


def test_scaled_rounds_and_has_a_floor() -> None:
    assert [scale_channels(16, w) for w in (0.01, 0.25, 0.3, 1.0, 1.5)] == [4, 4, 5, 16, 24]


@pytest.mark.parametrize("name", ["resnet18", "preact_resnet18"])
def test_convolutions_are_drawn_as_he_et_al(name: str) -> None:
    """Standard deviation sqrt(2 / (k k after)), seen where channels before and after differ; 5 standard errors."""
    convolutions = [m for m in make(name).modules() if isinstance(m, nn.Conv2d) and m.in_channels != m.out_channels]
    assert len(convolutions) == 1 + 2 * 3  # the stem, and the first layer and the shortcut of three stages
    for layer in convolutions:
        expected = (2 / (layer.kernel_size[0] ** 2 * layer.out_channels)) ** 0.5
        assert layer.weight.std().item() == pytest.approx(expected, rel=5 / (2 * layer.weight.numel()) ** 0.5)


# Residual blocks against hand-written references


def norm(x: Tensor, bn: nn.BatchNorm2d) -> Tensor:
    """The definition: weight (x - mean) / sqrt(variance + eps) + bias, of each channel; in training, of this batch."""
    mean, variance = bn.running_mean, bn.running_var
    if bn.training:
        mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
    assert mean is not None
    assert variance is not None
    scale = (bn.weight / (variance + bn.eps).sqrt())[:, None, None]
    return (x - mean[:, None, None]) * scale + bn.bias[:, None, None]


BLOCKS = [(8, 8, 1), (8, 16, 2), (8, 8, 2), (8, 16, 1)]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("before", "after", "stride"), BLOCKS)
def test_basic_block(before: int, after: int, stride: int, training: bool) -> None:
    block = cast("BasicBlock", shaken(BasicBlock(before, after, stride)).train(training))
    x = torch.randn(2, before, 8, 8)
    out = norm(F.conv2d(x, block.conv1.weight, stride=stride, padding=1), block.bn1).clamp(min=0)
    out = norm(F.conv2d(out, block.conv2.weight, padding=1), block.bn2)
    short = x
    if (before, stride) != (after, 1):
        conv, bn = cast("tuple[nn.Conv2d, nn.BatchNorm2d]", tuple(block.shortcut.children()))
        short = norm(F.conv2d(x, conv.weight, stride=stride), bn)
    torch.testing.assert_close(block(x), (out + short).clamp(min=0))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize(("before", "after", "stride"), BLOCKS)
def test_preact_block(before: int, after: int, stride: int, first: bool, training: bool) -> None:
    block = cast("PreActBlock", shaken(PreActBlock(before, after, stride, first)).train(training))
    x = torch.randn(2, before, 8, 8)
    active = norm(x, block.bn1).clamp(min=0)
    out = norm(F.conv2d(active, block.conv1.weight, stride=stride, padding=1), block.bn2).clamp(min=0)
    out = F.conv2d(out, block.conv2.weight, padding=1)
    short = active if first else x
    if (before, stride) != (after, 1):
        short = F.conv2d(active, cast("nn.Conv2d", block.shortcut).weight, stride=stride)
    torch.testing.assert_close(block(x), out + short)


def test_preact_ends_in_norm_and_relu_and_shares_the_first_activation() -> None:
    model = make("preact_resnet18", (3, 32, 32), 0.125)
    blocks = [m for m in model.modules() if isinstance(m, PreActBlock)]
    assert [b.shared for b in blocks] == [True, False, True, False, True, False, True, False]
    x = images((3, 32, 32))
    assert model.eval().features(x).min() >= 0


def test_preact_end_is_normalised_and_activated_before_pooling() -> None:
    model = cast("ResNet", shaken(make("preact_resnet18", (3, 32, 32), 0.125)))
    x = torch.randn(2, 3, 32, 32)
    last = model.blocks(F.conv2d(x, cast("nn.Conv2d", model.stem).weight, padding=1))
    (bn,) = (m for m in model.end.children() if isinstance(m, nn.BatchNorm2d))
    assert last.shape == (2, 64, 4, 4)
    torch.testing.assert_close(model.features(x), norm(last, bn).clamp(min=0).sum((2, 3)) / 16)


# torchvision's


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("depth", [18, 34])
def test_resnet_computes_what_torchvision_does(depth: int, training: bool) -> None:
    """torchvision's net, given the stem for small images and our numbers in order, stage by stage."""
    from torchvision.models import get_model

    model = shaken(make("resnet18", (3, 32, 32), depth=depth))
    reference = get_model(f"resnet{depth}", weights=None, num_classes=10)
    reference.conv1, reference.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    ours = [values for key, values in model.state_dict().items() if key not in ("mean", "std")]
    theirs = list(reference.state_dict().values())
    assert [values.shape for values in ours] == [values.shape for values in theirs]
    for source, target in zip(ours, theirs, strict=True):
        target.copy_(source)

    ends = [sum(blocks_of(depth)[: stage + 1]) - 1 for stage in range(4)]
    mine = stages(model, [cast("ResNet", model).blocks[end] for end in ends], training)
    known = stages(reference, [getattr(reference, f"layer{stage}") for stage in (1, 2, 3, 4)], training)
    assert [tuple(out.shape[1:]) for out in known[:4]] == [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)]
    for got, want in zip(mine, known, strict=True):
        scale = want.abs().max()
        torch.testing.assert_close(got / scale, want / scale, atol=1e-5, rtol=0)


def stages(model: nn.Module, parts: list[nn.Module], training: bool) -> list[Tensor]:
    """What `parts` and then all of `model` return for the same normalised images."""
    seen: list[Tensor] = []
    for part in parts:
        part.register_forward_hook(lambda _module, _input, out: seen.append(out))
    x = images((3, 32, 32))
    with torch.no_grad():
        model.train(training)
        logits = model.head(model.features(x)) if isinstance(model, Classifier) else model(x)
    return [*seen, logits]


def test_torchvision_computes_what_torchvision_does() -> None:
    from torchvision.models import get_model

    model = make("torchvision:resnet18", (1, 28, 28))
    torch.manual_seed(0)
    plain = get_model("resnet18", weights=None, num_classes=10).eval()
    x = images((1, 28, 28))
    repeated = ((x - 0.3) / 0.2).repeat(1, 3, 1, 1)
    torch.testing.assert_close(model.eval()(x), plain(repeated))
    assert count(model) == count(plain)


@pytest.mark.parametrize(
    ("name", "shape", "text"),
    [
        ("resnet19", (3, 32, 32), "unknown torchvision model: resnet19 (did you mean resnet18"),
        ("zzz", (3, 32, 32), "torchvision.models.list_models() lists them"),
        ("fasterrcnn_resnet50_fpn", (3, 32, 32), "unknown torchvision model"),
        ("alexnet", (3, 32, 32), "torchvision:alexnet cannot take an image of shape (3, 32, 32)"),
        ("squeezenet1_0", (3, 64, 64), "torchvision:squeezenet1_0 ends in AdaptiveAvgPool2d, not in a linear layer"),
        ("resnet18", (2, 32, 32), "torchvision:resnet18 takes images of 1 or 3 channels, got 2"),
    ],
)
def test_torchvision_refusals(name: str, shape: tuple[int, int, int], text: str) -> None:
    (problem,) = check_model(f"torchvision:{name}", shape, 10, 1.0, None)
    assert text in problem


@pytest.mark.parametrize("name", ["googlenet", "densenet121", "swin_t", "regnet_x_400mf", "vit_b_16"])
def test_torchvision_families_are_accepted(name: str) -> None:
    assert check_model(f"torchvision:{name}", (3, 64, 64), 10, 1.0, None) == []


def test_googlenet_has_no_auxiliary_outputs() -> None:
    with torch.device("meta"):
        model = make("torchvision:googlenet", (3, 64, 64)).train()
        assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 10)


# The user's own


def plain(shape: tuple[int, int, int], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))


def ends_in_softmax(shape: tuple[int, int, int], classes: int) -> nn.Module:
    return nn.Sequential(plain(shape, classes), nn.Softmax(1))


def sized(shape: tuple[int, int, int], classes: int, width: float = 1.0, depth: int = 2) -> nn.Module:
    return nn.Sequential(*(nn.Identity() for _ in range(depth)), *plain(shape, int(classes * width)))


def anything(shape: tuple[int, int, int], classes: int, **settings: float) -> nn.Module:
    assert settings == {"depth": 3}
    return plain(shape, classes)


def no_module(shape: tuple[int, int, int], classes: int) -> int:
    return 3


def wrong_logits(shape: tuple[int, int, int], classes: int) -> nn.Module:
    return plain(shape, classes + 1)


def raises(shape: tuple[int, int, int], classes: int) -> nn.Module:
    raise RuntimeError("planted failure")


def wide(shape: tuple[int, int, int], classes: int, width: float = 4.0) -> nn.Module:
    return nn.Sequential(*plain(shape, classes), *(nn.Identity() for _ in range(int(width))))


def wrong_input(shape: tuple[int, int, int], classes: int) -> nn.Module:
    return nn.Linear(99, classes)


def test_own_function() -> None:
    model = build_model(f"{OWN}plain", (1, 8, 8), 10, [0.5], [0.5])
    assert model.training
    assert isinstance(model, AdaptedClassifier)
    assert [type(m) for m in model.body.children()] == [nn.Flatten, nn.Identity]
    whole = build_model(f"{OWN}ends_in_softmax", (1, 8, 8), 10, [0.5], [0.5])
    assert [type(m) for m in whole.children()] == [nn.Sequential, nn.Softmax]
    for depth, settings in ((5, {"depth": 5}), (2, {})):
        sized = build_model(f"{OWN}sized", (1, 8, 8), 10, [0.5], [0.5], **settings)
        assert isinstance(sized, AdaptedClassifier)
        assert len(list(sized.body.children())) == depth + 2
    build_model(f"{OWN}anything", (1, 8, 8), 10, [0.5], [0.5], depth=3)


@pytest.mark.parametrize("width", [1.0, 2.0])
def test_own_function_gets_the_width_whatever_its_default(width: float) -> None:
    model = build_model(f"{OWN}wide", (1, 8, 8), 10, [0.5], [0.5], width=width)
    assert sum(isinstance(m, nn.Identity) for m in model.modules()) == width + 1  # in the place of the last layer


def test_own_function_of_another_module() -> None:
    assert check_model("tests.misbehaving:healthy", (1, 8, 8), 10, 1.0, None) == []
    model = build_model("tests.misbehaving:healthy", (1, 8, 8), 10, [0.5], [0.5])
    assert model(images((1, 8, 8))).shape == (3, 10)
    assert count(model) == 64 * 10 + 10


@pytest.mark.parametrize(
    ("name", "settings", "text"),
    [
        ("raises", {}, "fails: RuntimeError: planted failure"),
        ("no_module", {}, "must return an nn.Module, got int"),
        ("wrong_logits", {}, "must return logits (1, 10) for one image, got (1, 11)"),
        ("wrong_input", {}, "cannot take an image of shape (1, 8, 8)"),
        ("sized", {"width": 0.5}, "must return logits (1, 10) for one image, got (1, 5)"),
        ("plain", {"width": 0.5, "depth": 3}, "has no setting width (it has: none)"),
        ("SHAPES", {}, "is no function but list"),
        ("missing", {}, "cannot be imported: module 'tests.test_models' has no attribute 'missing'"),
    ],
)
def test_own_refusals(name: str, settings: dict[str, int], text: str) -> None:
    with pytest.raises(InputError) as refused:
        build_model(f"{OWN}{name}", (1, 8, 8), 10, [0.5], [0.5], **settings)  # type: ignore[arg-type]
    assert text in str(refused.value)
    assert f"{OWN}{name}" in str(refused.value)


# What cannot be


@pytest.mark.parametrize(
    ("name", "shape", "width", "depth", "texts"),
    [
        ("smal_cnn", (1, 8, 8), 1.0, None, ["did you mean small_cnn?"]),
        ("vgg", (1, 8, 8), 1.0, None, ["torchvision:NAME"]),
        ("vgg", (1, 8, 8), 1.0, None, ["module:function, preact_resnet18, resnet18, small_cnn"]),
        (
            "small_cnn",
            (1, 2, 8),
            -1.0,
            6,
            [
                "width of small_cnn must be positive, got -1.0",
                "depth of small_cnn must be one of [2, 3, 4, 5], got 6",
                "small_cnn needs images of 4x4 or more, got 2x8",
            ],
        ),
        (
            "resnet18",
            (3, 8, 7),
            float("nan"),
            50,
            ["width of resnet18", "depth of resnet18 must be one of [10, 18, 34], got 50", "8x8 or more, got 8x7"],
        ),
        ("preact_resnet18", (3, 8, 8), float("inf"), 1, ["width of preact_resnet18", "depth of preact_resnet18"]),
        (
            "torchvision:resnet18",
            (3, 32, 32),
            0.5,
            18,
            ["has no setting width (it has: noise)", "has no setting depth (it has: noise)"],
        ),
        (
            "nowhere_at_all:net",
            (1, 8, 8),
            1.0,
            None,
            ["named 'nowhere_at_all'; a module of your own must lie where Python looks (PYTHONPATH=.)"],
        ),
        (":net", (1, 8, 8), 1.0, None, ["model :net cannot be imported"]),
        (f"{OWN}plain", (1, 8, 8), 1.0, 3, ["has no setting depth (it has: none)"]),
    ],
)
def test_refusals(name: str, shape: tuple[int, int, int], width: float, depth: int | None, texts: list[str]) -> None:
    found = check_model(name, shape, 10, width, depth)
    assert len(found) == len(texts)
    assert all(text in problem for text, problem in zip(texts, found, strict=True))
    with pytest.raises(InputError) as refused:
        build_model(name, shape, 10, [0.5] * shape[0], [0.5] * shape[0], width=width, depth=depth)
    assert refused.value.problems == found


@pytest.mark.parametrize("name", [*MODELS, *TORCHVISION, f"{OWN}plain"])
def test_check_leaves_the_generator_alone(name: str) -> None:
    before = torch.random.get_rng_state()
    assert check_model(name, (3, 33, 33), 10, 1.0, None) == []
    assert torch.equal(before, torch.random.get_rng_state())


def test_problems_are_the_callers_to_keep() -> None:
    first = check_model("smal_cnn", (1, 8, 8), 10, 1.0, None)
    first.append("of the caller's own")
    assert len(check_model("smal_cnn", (1, 8, 8), 10, 1.0, None)) == 1
