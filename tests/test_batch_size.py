"""Batches of measurements: by the bytes of activations, within a budget; what is measured does not hang on them."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from raybd.metrics.information.noisy_features import noiseless_features, noisy_features
from raybd.metrics.smoothing.adversarial import input_gradient
from raybd.metrics.smoothing.votes import MAX_BATCH_GPU, count_votes
from raybd.metrics.stealth.channels import mean_activations, trigger_activated_change
from raybd.metrics.stealth.detectors import strip_entropy, training_losses
from raybd.metrics.stealth.gradients import cross_entropy, gradient_norms
from raybd.metrics.stealth.latent import latent_features
from raybd.metrics.stealth.ssim import ssim_reflect11
from raybd.models import batch_size as sizes
from raybd.models import build_model
from raybd.models.activation_memory import activation_bytes, peak_bytes
from raybd.models.batch_size import batch_size, by_image, halved
from raybd.models.trigger_inversion import InversionSettings, TriggerInversion
from raybd.pretraining import embed
from raybd.training import TrainConfig, predict

GIB, BUDGET = 2**30, 2 * 2**30
NETWORKS = [("resnet18", 32), ("resnet18", 64), ("torchvision:resnet18", 224), ("torchvision:vgg11_bn", 224)]
BEFORE = {
    ("resnet18", 32): 8,
    ("resnet18", 64): 32,
    ("torchvision:resnet18", 224): 62,
    ("torchvision:vgg11_bn", 224): 209,
}


def network(name: str, side: int, noise: float = 0.0) -> nn.Module:
    settings = {"noise": noise} if noise else {}
    return build_model(name, (3, side, side), 4, [0.5] * 3, [0.3] * 3, **settings).eval()


@pytest.mark.parametrize(("name", "side"), NETWORKS)
def test_batches_of_large_networks_stay_below_the_budget(name: str, side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "memory_budget", lambda device: BUDGET)
    model = network(name, side).to("meta")
    x = torch.empty(1, 3, side, side, device="meta")
    for gradients in (False, True):
        n = batch_size(model, x, MAX_BATCH_GPU, gradients)
        assert n < MAX_BATCH_GPU
        taken = [peak_bytes(model, x.expand(k, -1, -1, -1).clone(), gradients) for k in (n, n + n // 8 + 1)]
        assert taken[0] <= BUDGET < taken[1]  # as large as it can be
    assert activation_bytes(model, (3, side, side)) * MAX_BATCH_GPU / GIB > BEFORE[name, side]


def test_the_count_is_that_of_the_tensors_that_live() -> None:
    class Chain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = torch.cat([x, x], 1)  # 2
            z = torch.cat([y, y], 1)  # 2 + 4, beside x
            del y
            return z.sum(1, keepdim=True).relu_()

    one = 4 * 5 * 5
    assert activation_bytes(Chain(), (1, 5, 5)) == (1 + 2 + 4) * one
    assert activation_bytes(Chain(), (1, 5, 5), gradients=True) == (1 + 2 + 4 + 1 + 2 * 4) * one


def test_counting_leaves_the_network_and_the_random_numbers_alone() -> None:
    model = network("resnet18", 16, noise=0.3).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    activation_bytes(model, (3, 16, 16))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_small_images_keep_the_batches_that_are_fastest() -> None:
    assert batch_size(network("small_cnn", 16), torch.empty(1, 3, 16, 16), 512) == 512


@pytest.fixture(scope="module")
def model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return network("small_cnn", 16)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randint(0, 256, (23, 3, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


@pytest.fixture(params=[1, 5])
def small(request: pytest.FixtureRequest, model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A budget for so many images."""
    budget = request.param * activation_bytes(model, (3, 16, 16))
    with monkeypatch.context() as patched:
        patched.setattr(sizes, "memory_budget", lambda device: budget)
        yield


def measurements(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """What every measurement that goes through the network in batches says of `x`."""
    y, plain = torch.arange(len(x)) % 4, x.float() / 255
    other = plain.flip(3)
    found = {
        "predict": predict(model, x, TrainConfig()),
        "features": embed(model, x),
        "noiseless": noiseless_features(model, x),
        "latent": torch.from_numpy(latent_features(model, x)),
        "losses": training_losses(model, x, y),
        "strip": strip_entropy(model, plain, other[:3]),
        "gradients": gradient_norms(model, plain, y, cross_entropy),
        "input": input_gradient(model, plain, y),
        "votes": count_votes(model, plain[None], range(len(x)), [0.3], [8], 0).votes.float(),
    }
    found |= {f"mean {name}": value for name, value in mean_activations(model, plain).items()}
    return found | {f"change {name}": value for name, value in trigger_activated_change(model, plain, other).items()}


@pytest.fixture(scope="module")
def measured(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    return measurements(model, images)


@pytest.mark.usefixtures("small")
def test_no_measurement_hangs_on_the_batch(model: nn.Module, images: Tensor, measured: dict[str, Tensor]) -> None:
    for name, value in measurements(model, images).items():
        assert torch.allclose(value, measured[name], rtol=1e-4, atol=1e-5), name


def test_distances_of_images_do_not_hang_on_the_batch(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, clean, other = [], images.float() / 255, images.flip(3).float() / 255

    def ssim(a: Tensor, b: Tensor) -> Tensor:
        seen.append(len(a))
        return ssim_reflect11(a, b)

    whole = by_image(ssim, clean, other, copies=24)
    monkeypatch.setattr(sizes, "memory_budget", lambda device: 5 * 24 * 8 * 3 * 16 * 16)
    assert torch.allclose(by_image(ssim, clean, other, copies=24), whole)
    assert seen == [23, 5, 5, 5, 5, 3]


def inverted(model: nn.Module, images: Tensor) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    search = TriggerInversion(model, (3, 16, 16), 4, InversionSettings(), rng, torch.device("cpu"))
    for _ in range(3):
        search.step(images[:8].float() / 255)
    return torch.cat([search.mask.detach().flatten(), search.pattern.detach().flatten()])


def test_neural_cleanse_does_not_hang_on_the_batch(
    model: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = inverted(model, images)
    for rows in (1, 3, 9):
        needed = rows * activation_bytes(model, (3, 16, 16), gradients=True)
        monkeypatch.setattr(sizes, "memory_budget", lambda device, needed=needed: needed)
        assert torch.allclose(inverted(model, images), wanted, atol=1e-3)


def test_noise_in_the_network_does_not_hang_on_the_batch(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    noisy = network("small_cnn", 16, noise=0.4)
    drawn = []
    for rows in (1, 70, 10_000):
        needed = rows * activation_bytes(noisy, (3, 16, 16))
        monkeypatch.setattr(sizes, "memory_budget", lambda device, needed=needed: needed)
        torch.manual_seed(3)
        drawn.append(noisy_features(noisy, images, 11))
    assert torch.allclose(drawn[0], drawn[2], atol=1e-5)
    assert torch.allclose(drawn[1], drawn[2], atol=1e-5)
    flat = drawn[0].flatten(1)
    assert len(flat.unique(dim=0)) == len(flat)
    assert (drawn[0][:, 0] - drawn[0][:, 8]).abs().min(1).values.max() > 0  # each draw is another


def test_what_does_not_fit_is_done_in_halves() -> None:
    seen = []

    def limited(x: Tensor, y: Tensor) -> Tensor:
        seen.append(len(x))
        if len(x) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x + y

    x = torch.arange(10.0)
    assert torch.equal(halved(limited, x, 2 * x), 3 * x)
    assert seen == [10, 5, 3, 2, 5, 3, 2]
    with pytest.raises(torch.OutOfMemoryError):
        halved(lambda x: limited(x.expand(9), x), torch.zeros(1))


def test_a_quarter_of_a_card_has_a_quarter_of_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (5 * GIB, 16 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0.75 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 0.5 * GIB)
    monkeypatch.setattr(sizes, "MOST_BYTES", 1e12)
    card, found = torch.device("cuda"), {}
    for share in (1.0, 0.25, 0.125):
        sizes.set_memory_share(share)
        found[share] = sizes.memory_budget(card) / GIB
    sizes.set_memory_share(1.0)
    assert found == {1.0: 2.625, 0.25: 1.75, 0.125: 0.75}  # of what is free, of 4 and of 2 GiB, less what it has
