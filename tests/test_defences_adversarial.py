"""SAU and NPD: losses, examples and the polarizer, against SciPy, hand-made cases and invariances."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.spatial.distance import jensenshannon
from torch import nn

from raybd.defences import TrainingContext
from raybd.defences.npd import Npd, Polarizer, into_ball, likeliest_wrong, polarized_layer
from raybd.defences.sau import Sau, divergence, log_denied
from raybd.errors import InputError
from raybd.models import Classifier, build_model
from raybd.seeds import stream
from raybd.training import TrainConfig, fit
from raybd.types import Data


def network(digits: Data, name: str = "small_cnn", width: float = 0.25) -> Classifier:
    torch.manual_seed(0)
    model = build_model(name, digits.train.shape, 10, digits.mean, digits.std, width=width)
    assert isinstance(model, Classifier)
    return model


def logits(*names: str, n: int = 5) -> list[torch.Tensor]:
    return [2 * torch.randn(n, 4, generator=stream(0, name)).double() for name in names]


def test_the_divergence_is_scipy_s_squared_distance() -> None:
    first, second = logits("first", "second")
    hand = jensenshannon(first.softmax(1).numpy(), second.softmax(1).numpy(), axis=1) ** 2
    np.testing.assert_allclose(divergence(first, second).numpy(), hand, rtol=1e-10)
    np.testing.assert_allclose(divergence(second, first + 7), hand, rtol=1e-10)
    apart = torch.tensor([[200.0, 0.0]]), torch.tensor([[0.0, 200.0]])
    assert float(divergence(*apart)) == pytest.approx(np.log(2))


def test_what_a_network_denies_is_exact_where_it_is_certain() -> None:
    (some,) = logits("some")
    label = torch.tensor([0, 1, 2, 3, 0])
    p = some.softmax(1).gather(1, label[:, None])[:, 0]
    np.testing.assert_allclose(log_denied(some, label).numpy(), np.log(1 - p.numpy()), rtol=1e-10)
    certain = torch.tensor([[60.0, 0.0, 0.0]], requires_grad=True)
    value = log_denied(certain, torch.tensor([0]))
    value.sum().backward()
    assert float(value.detach()) == pytest.approx(np.log(2) - 60, abs=1e-4)
    assert certain.grad is not None
    assert certain.grad[0].tolist() == pytest.approx([-1, 0.5, 0.5], abs=1e-5)


def test_the_inner_loss_of_sau_by_its_definition() -> None:
    """Four images: neither is fooled, h alone, both apart, both alike."""
    h = torch.tensor([[5.0, 1, 0], [0, 5, 1], [0, 5, 1], [0, 5, 1]]).double()
    frozen = torch.tensor([[4.0, 1, 0], [4, 1, 0], [0, 1, 4], [1, 4, 0]]).double()
    y, said = torch.zeros(4, dtype=torch.long), torch.zeros(4, dtype=torch.long)
    loss, left = Sau(fooling=0.3, sharing=2.0).inner_loss((h, frozen), (said, said), y)
    ce = [-part.log_softmax(1)[:, 0].numpy() for part in (h, frozen)]
    js = jensenshannon(h.softmax(1).numpy(), frozen.softmax(1).numpy(), axis=1) ** 2
    wanted = 2.0 * js[:3].sum() / 4 - 0.3 * (ce[0][0] + ce[1][0] + ce[1][1]) / 2 / 4
    assert float(loss) == pytest.approx(wanted, rel=1e-10)
    assert left
    assert not Sau().inner_loss((h[3:], frozen[3:]), (said[3:], said[3:]), y[3:])[1]


class Linear(nn.Module):
    """Logits of a 1x1x2 image: an exact gradient."""

    def __init__(self, weight: list[list[float]]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) @ self.weight.T


def test_the_shared_examples_of_sau_stay_in_the_box_and_follow_the_sign() -> None:
    model = Linear([[1.0, 0.0], [0.0, 1.0]])
    x, y = torch.tensor([0.9, 0.2]).view(1, 1, 1, 2), torch.tensor([0])
    d = Sau(ascents=1, ascent_rate=0.05).shared_examples(model, copy.deepcopy(model), x, y)
    # h = h_0: nothing is apart, so d only raises the loss: less of the first pixel, more of the second, up to the box
    torch.testing.assert_close(d.flatten(), torch.tensor([0.15, 0.2]))
    far = Sau(ascents=5).shared_examples(model, copy.deepcopy(model), x, y)
    torch.testing.assert_close(far.flatten(), torch.tensor([-0.2, 0.2]))
    near = torch.tensor([0.5, 0.45]).view(1, 1, 1, 2)
    done = Sau(ascents=5).shared_examples(model, copy.deepcopy(model), near, y)
    assert (near + done).flatten().argmax() == 1  # both are fooled alike, and it stops


def test_what_sau_unlearns_by_its_definition() -> None:
    """Four images, as h_0 sees them: fooled; right before and after; not moved; wrong before, and right after."""
    model, frozen = Linear([[2.0, -1.0], [0.5, 1.0]]), Linear([[1.0, 0.0], [0.0, 1.0]])
    x = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.9, 0.1], [0.2, 0.8]]).view(4, 1, 1, 2)
    moved = torch.tensor([[0.1, 0.9], [0.3, 0.7], [0.8, 0.2], [0.7, 0.3]]).view(4, 1, 1, 2)
    y = torch.tensor([0, 1, 0, 0])
    loss = Sau(unlearning=0.7).unlearnt(model, frozen, x, moved, y)
    p = model(moved).softmax(1)[0, 1]  # the first alone, into class 1
    wanted = F.cross_entropy(model(x), y) - 0.7 * torch.log(1 - p) / 4
    torch.testing.assert_close(loss, wanted)


def test_a_polarizer_that_is_not_activated_changes_no_bit(digits: Data) -> None:
    for name, layer in (
        ("small_cnn", "blocks.4.0"),
        ("preact_resnet18", "blocks.7.conv1"),
        ("resnet18", "blocks.7.conv1"),
    ):
        assert polarized_layer(network(digits, name, 0.1)) == layer
    plain, ours = network(digits), Npd().network(network(digits))
    images, how = digits.train.take(torch.arange(128)), TrainConfig(epochs=2)
    losses = [[epoch.loss for epoch in fit(model, images, how, 0)] for model in (plain, ours)]
    assert losses[0] == losses[1]
    x = images.x[:9].float() / 255
    assert torch.equal(plain.eval()(x), ours.eval()(x))
    (polarizer,) = (module for module in ours.modules() if isinstance(module, Polarizer))
    assert torch.equal(polarizer.convolution.weight[:, :, 0, 0], torch.eye(8))
    polarizer.activate()
    torch.testing.assert_close(ours(x), plain(x), atol=1e-3, rtol=1e-3)  # the identity, but for epsilon


def test_npd_trains_the_polarizer_alone(digits: Data) -> None:
    ours = Npd().network(network(digits))
    before = copy.deepcopy(ours.state_dict())
    at = TrainingContext(
        model=ours, images=digits.train, classes=10, train_config=TrainConfig(), seed=0, trusted=digits.test
    )
    Npd(steps=3, warm_steps=2).timed(at)
    changed = {key.split(".1.0")[0] for key, value in ours.state_dict().items() if not torch.equal(value, before[key])}
    assert {key.split(".0.0.")[0] for key in changed} == {"blocks.4"}
    assert any(weight.requires_grad for weight in ours.head.parameters())
    (polarizer,) = (module for module in ours.modules() if isinstance(module, Polarizer))
    assert bool(polarizer.active)
    assert not any(weight.requires_grad for weight in polarizer.parameters())
    with pytest.raises(InputError, match="npd needs a network with"):
        Npd().network(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))


def test_the_loss_of_npd_by_its_definition() -> None:
    clean, moved = logits("clean", "moved")
    y, given, target = torch.tensor([0, 1, 2, 3, 0]), torch.tensor([0, 1, 2, 3, 1]), torch.tensor([1, 2, 3, 0, 2])
    p, q = clean.softmax(1).numpy(), moved.softmax(1).numpy()
    rows, wrong = np.arange(5), q.copy()
    wrong[rows, y] = -1
    assert likeliest_wrong(moved, y).tolist() == wrong.argmax(1).tolist()
    terms = [
        -np.log(p[rows, y]).mean(),
        -np.log(q[rows, given]).mean(),
        -np.log(1 - q[rows, wrong.argmax(1)]).mean(),
        -np.log(1 - q[rows, target]).mean(),
    ]
    found = Npd(weights=(1.0, 2.0, 3.0, 4.0)).loss(clean, moved, y, given, target)
    assert float(found) == pytest.approx(np.dot([1, 2, 3, 4], terms), rel=1e-10)
    assert Npd(weights=(1.0,)).check((1, 8, 8), 10)


def test_the_adversarial_images_of_npd_stay_in_ball_and_box() -> None:
    d = torch.tensor([[3.0, 4.0], [0.3, 0.4]]).view(2, 1, 1, 2)
    torch.testing.assert_close(into_ball(d, 1.0).flatten(), torch.tensor([0.6, 0.8, 0.3, 0.4]))
    model = Linear([[1.0, 0.0], [0.0, 1.0]])
    x, target = torch.tensor([0.99, 0.2]).view(1, 1, 1, 2), torch.tensor([1])
    moved = Npd(ascents=1, ascent_rate=0.1, radius=1.0).adversarial(model, x, target)
    torch.testing.assert_close(moved.flatten(), torch.tensor([0.89, 0.3]))
    bounded = Npd(ascents=9, ascent_rate=0.1, radius=0.2).adversarial(model, x, target)
    assert float((bounded - x).norm()) == pytest.approx(0.2 * np.sqrt(2), rel=1e-5)
