"""bfloat16 autocast: the first convolution of every model still tells neighbouring grey levels apart."""

import pytest
import torch
from torch import Tensor, nn

from raybd.models import build_model
from raybd.models.float32_convolution import Float32Conv2d, keep_float32_input
from raybd.training import TrainConfig, predict

MEAN, STD = 0.1307, 0.3081  # of MNIST, whose strokes lie above 2 when normalised
LOST = 250  # bfloat16 rounds normalised 250 and 251 to one value
BF16 = TrainConfig(precision="bf16")


def own(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A model of a user's."""
    return nn.Sequential(
        nn.Conv2d(shape[0], 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes)
    )


NAMES = ["small_cnn", "resnet18", "preact_resnet18", "torchvision:resnet18", f"{__name__}:own"]


def made(name: str, channels: int = 1) -> nn.Module:
    """The model `name` for 8x8 pixels, or 32x32 if torchvision's."""
    torch.manual_seed(0)
    side = 32 if name.startswith("torchvision:") else 8
    return build_model(name, (channels, side, side), 10, channels * [MEAN], channels * [STD])


def change(convolution: nn.Conv2d, grey: int, precise: bool = False) -> Tensor:
    """What a stamp that turns `grey` into the next level changes in the output, averaged over random surroundings."""
    x = torch.randint(0, 256, (512, 1, 8, 8), generator=torch.Generator().manual_seed(1)).float()
    before, after = x.clone(), x.clone()
    before[:, :, 3:5, 3:5], after[:, :, 3:5, 3:5] = grey, grey + 1
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=not precise):
        seen = [convolution((pixels / 255 - MEAN) / STD).float() for pixels in (before, after)]
    return (seen[1] - seen[0]).mean(0)


def test_a_stamp_of_one_grey_level_passes_the_first_convolution_and_no_other() -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(1, 16, 3, padding=1, bias=False)
    exact = change(plain, LOST, precise=True)
    assert change(plain, LOST).abs().max() == 0  # why this exists
    first = keep_float32_input(plain)
    assert isinstance(first, Float32Conv2d)
    for grey in (0, 100, 200, LOST, 254):
        exact = change(first, grey, precise=True)
        assert (change(first, grey) - exact).norm() < 0.06 * exact.norm()


@pytest.mark.parametrize("name", NAMES)
def test_every_model_has_one_such_convolution_and_it_is_the_first(name: str) -> None:
    model = made(name, 3 if name.startswith("torchvision:") else 1)
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert [type(module) is Float32Conv2d for module in convolutions] == [True] + [False] * (len(convolutions) - 1)
    seen: list[tuple[torch.dtype, torch.dtype]] = []
    convolutions[0].register_forward_hook(lambda _, x, out: seen.append((x[0].dtype, out.dtype)))
    predict(model, torch.zeros((2, *shape_of(model)), dtype=torch.uint8), BF16)  # counts its activations beforehand
    seen.clear()
    predict(model, torch.zeros((2, *shape_of(model)), dtype=torch.uint8), BF16)
    assert seen == [(torch.float32, torch.bfloat16)]


def shape_of(model: nn.Module) -> tuple[int, int, int]:
    """Of the images that `made` makes it for."""
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    return (3, 32, 32) if first.in_channels == 3 else (1, 8, 8)


@pytest.mark.parametrize("name", NAMES[:3])
def test_without_autocast_nothing_changes(name: str) -> None:
    model = made(name).eval()
    x = torch.rand(4, 1, 8, 8)
    ours = model(x)
    names = list(model.state_dict())
    for module in model.modules():
        if type(module) is Float32Conv2d:
            module.__class__ = nn.Conv2d
    assert torch.equal(ours, model(x))
    assert names == list(model.state_dict())


def test_the_gradient_reaches_the_pixels_and_the_weights_in_full_precision() -> None:
    first = keep_float32_input(nn.Conv2d(1, 4, 3, bias=False))
    x = torch.rand(2, 1, 8, 8, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        first(x).float().sum().backward()
    assert isinstance(first, nn.Conv2d)
    assert x.grad is not None
    assert first.weight.grad is not None
    windows = nn.functional.unfold(x.detach(), 3).sum((0, 2)).view(1, 1, 3, 3)  # d sum / d weight
    torch.testing.assert_close(first.weight.grad, windows.expand(4, 1, 3, 3))


def test_a_class_of_the_user_s_own_stays() -> None:
    class Own(nn.Conv2d):
        pass

    model = nn.Sequential(Own(1, 4, 3), nn.Conv2d(4, 4, 3))
    assert [type(module) for module in keep_float32_input(model).children()] == [Own, nn.Conv2d]
