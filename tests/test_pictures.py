"""Pictures of a trial: Grad-CAM, spectra and channels in closed form, roles, and what is drawn and what is left out."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.attacks import parse
from raybd.attacks.poisoning import PoisonSpec
from raybd.command_line.command import main
from raybd.errors import InputError
from raybd.metrics import METRICS
from raybd.metrics.pictures import Pictures
from raybd.metrics.pictures.embedding import embedded, images_by_role
from raybd.metrics.pictures.figures import drawn
from raybd.metrics.pictures.maps import channel_change, grad_cam
from raybd.metrics.pictures.spectrum import mean_spectra
from raybd.models import Classifier
from raybd.types import CLEAN, COVER, POISON, Data, Images, MetricContext
from sweeps.ib import PRESETS, summarise
from tests.smoothing_cases import Rule
from tests.smoothing_cases import trained as evidence


@pytest.fixture(scope="module")
def context() -> MetricContext:
    return replace(evidence(0.1, 0), twin=evidence(0.0, 0).model)


class Pooled(nn.Module):
    """Maps A = relu(conv x), in place, pooled, and a linear head: there Grad-CAM is relu(sum_k w_k A_k) / positions."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.relu, self.head = nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(inplace=True), nn.Linear(5, 4)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.relu(self.conv(x)).mean((2, 3)))
        return logits


def images(count: int = 6, side: int = 8) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(3))


def test_grad_cam_of_a_pooled_network_is_its_class_activation_map() -> None:
    model, x = Pooled(), images()
    found = grad_cam(model, x)
    with torch.no_grad():
        maps = F.relu(model.conv(x))
        weights = model.head.weight[model(x).argmax(1)]
        expected = torch.einsum("nk,nkhw->nhw", weights, maps).relu() / 64
    torch.testing.assert_close(found, expected)
    assert all(p.grad is None for p in model.parameters())


def test_grad_cam_is_of_one_image_and_does_not_see_what_all_classes_share() -> None:
    model, x = Pooled(), images()
    plain = grad_cam(model, x)
    assert plain is not None
    torch.testing.assert_close(grad_cam(model, x[2:3]), plain[2:3])
    with torch.no_grad():
        model.head.bias += 7
    torch.testing.assert_close(grad_cam(model, x), plain)
    for p in model.parameters():
        p.requires_grad_(False)
    torch.testing.assert_close(grad_cam(model, x), plain)
    assert grad_cam(Rule(lambda z: z[:, :4]), x) is None


def test_a_channel_moves_by_the_norm_of_its_map() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Flatten(), nn.Linear(8, 2)).eval()
    with torch.no_grad():
        model[0].weight[:] = torch.tensor([3.0, -0.5]).view(2, 1, 1, 1)
    clean = torch.zeros(2, 1, 2, 2)
    triggered = torch.stack([torch.ones(1, 2, 2), torch.tensor([[[0.0, 0.0], [0.0, 4.0]]])])
    found = channel_change(model, clean, triggered)
    torch.testing.assert_close(found, torch.tensor([3 * (2 + 4) / 2, 0.5 * (2 + 4) / 2]))
    torch.testing.assert_close(channel_change(model, triggered, triggered), torch.zeros(2))
    assert channel_change(Rule(lambda z: z[:, :4]), clean, triggered) is None


def test_the_spectrum_of_a_wave_is_two_points() -> None:
    """delta sin(2 pi 6 j / 32): delta / 2 at 6 and at -6 waves across, times sqrt(H W) = 32; grey without it at 0."""
    grey = Images(torch.full((3, 1, 32, 32), 100, dtype=torch.uint8), torch.zeros(3).long())
    triggered = PoisonSpec(parse("sig"), 0.0, 0).triggered(grey, 10)
    trigger, clean = mean_spectra(grey.x, triggered.x)
    assert trigger[16, 16 + 6] == pytest.approx(20 * 32, rel=0.01)
    assert trigger[16, 16 - 6] == pytest.approx(20 * 32, rel=0.01)
    rest = trigger.clone()
    rest[16, [10, 22]] = 0
    assert rest.max() < 15  # rounding to bytes
    assert clean[16, 16] == pytest.approx(100 * 32)
    assert clean.sum() == pytest.approx(100 * 32)
    energy = (triggered.x.double() - grey.x.double()).square().sum() / 3
    assert trigger.square().sum() == pytest.approx(float(energy), rel=1e-9)  # Parseval: all three are alike


def test_images_of_every_role_in_equal_shares(context: MetricContext) -> None:
    index, roles = images_by_role(context, 90)
    assert torch.bincount(roles).tolist() == [30, 30, 30]
    given, true = context.poisoned.images.y[index], context.poisoned.roles[index]
    assert (true[roles == 2] == POISON).all()
    assert (true[roles < 2] == CLEAN).all()
    target = context.poisoned.images.y[context.poisoned.roles == POISON][0]
    assert (given[roles == 1] == target).all()
    assert (given[roles == 0] != target).all()
    covered = replace(context.poisoned, roles=torch.where(context.poisoned.roles == POISON, COVER, 0))
    assert images_by_role(replace(context, poisoned=covered), 60)[1].unique().tolist() == [0, 3]


def test_t_sne_keeps_neighbours_and_repeats_itself(context: MetricContext) -> None:
    """Of a network that tells the classes apart, an image's nearest in the plane is mostly of its class."""
    assert isinstance(context.model, Classifier)
    some = context.data.test.take(torch.arange(150))
    plane = embedded(context.model, some.x.float() / 255, 0)
    assert torch.equal(plane, embedded(context.model, some.x.float() / 255, 0))
    nearest = torch.cdist(plane, plane).fill_diagonal_(torch.inf).argmin(1)
    assert (some.y[nearest] == some.y).float().mean() > 0.85


def test_all_four_are_drawn_and_change_nothing(context: MetricContext) -> None:
    metric, state = Pictures(images=60, examples=3), torch.get_rng_state()
    found = metric.measure(context)
    assert torch.equal(state, torch.get_rng_state())
    assert {name.split("/")[1] for name in found} == {"tsne", "roles", "spectrum", "images", "cams", "channels"}
    cams = found["pictures/cams"]
    assert isinstance(cams, Tensor)
    assert cams.shape[:3] == (2, 2, 3)  # networks, clean and triggered, images
    arrays = {f"{name}/9": value for name, value in found.items() if isinstance(value, Tensor)}
    figures = metric.figures([], arrays, "a title")
    assert set(figures) == {"tsne", "grad_cam", "spectrum", "channels"}
    labels = [text.get_text() for text in figures["tsne"].legends[0].get_texts()]
    assert labels == ["clean (20)", "clean, of the class that the poison has (20)", "poison (20)"]
    lines = figures["channels"].axes[0].get_lines()
    assert [line.get_label() for line in lines] == ["this network", "its clean twin"]
    assert all((np.diff(line.get_ydata()) <= 0).all() for line in lines)
    assert len(figures["grad_cam"].axes) == 3 * 6
    assert METRICS["pictures"] is Pictures


def test_a_backdoor_moves_some_channels_further_than_the_trigger_moves_the_twin(context: MetricContext) -> None:
    network, twin = Pictures(images=60).measure(context)["pictures/channels"]
    assert network.max() > 1.5 * twin.max()  # 2.5 times


def test_what_cannot_be_drawn_is_left_out(context: MetricContext, digits: Data) -> None:
    metric, flat = Pictures(images=30), Rule(lambda z: z[:, :10])
    found = metric.measure(replace(context, model=flat, twin=flat))
    assert {name.split("/")[1] for name in found} == {"spectrum", "images"}
    nothing = metric.measure(replace(context, measured=torch.zeros_like(context.measured)))
    assert {name.split("/")[1] for name in nothing} == {"tsne", "roles"}
    assert drawn({}, "a title") == {}
    with pytest.raises(InputError, match="needs the clean twin"):
        metric.measure(replace(context, twin=None))
    assert Pictures(images=3).problems(digits, 0.0) != []


def test_a_sweep_s_trials_and_its_report_have_them(tmp_path: Path) -> None:
    args = "--inline --seeds 1 --poison-rates 0 0.05 --attacks badnets --widths 0.25 --weight-decays 5e-4 --epochs 1"
    args += " --noise 0 --metrics pictures:images=40,examples=2"
    places = ["--results", str(tmp_path / "r"), "--tracking-uri", f"sqlite:///{tmp_path}/m.db", "--name", "seen"]
    assert main(PRESETS, summarise, [*args.split(), *places]) == 0
    for folder in (tmp_path / "r" / "seen" / "trials").iterdir():
        names = {path.stem for path in (folder / "figures").glob("*.png")}
        assert {"tsne", "grad_cam", "spectrum", "channels"} <= names
    (page,) = (tmp_path / "r" / "seen").rglob("report.html")
    assert page.read_text().count("data:image/png;base64,") == 4  # of the poisoned run: the twin is none to look at
