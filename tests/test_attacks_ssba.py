"""SSBA: its loss by hand, what its encoder has learnt on digits, its pixels, the same bits in another process."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from raybd.attacks.networks import from_vector, size_of, sketch
from raybd.attacks.poisoning import PoisonSpec
from raybd.attacks.ssba import Ssba
from raybd.attacks.steganography import Encoder, encoded, loss_of, train_encoder
from raybd.types import POISON, Data, Images
from tests.conftest import made_images

QUICK = Ssba(steps=3, width=4)


def pattern(attack: Ssba, images: Images, seed: int = 0) -> Tensor:
    return PoisonSpec(attack, 0.0, seed).on(images, 10).trigger(images.shape, 10)


def test_the_loss_is_cross_entropy_and_the_mean_square() -> None:
    logits, bits = torch.tensor([[0.0, 2.0], [-1.0, 0.5]]), torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    entropy = -torch.where(bits > 0, logits.sigmoid().log(), (1 - logits.sigmoid()).log()).mean()
    change = torch.tensor([0.1, -0.3, 0.0, 0.2])
    assert float(loss_of(logits, bits, change, 0.0)) == pytest.approx(float(entropy))
    assert float(loss_of(logits, bits, change, 50.0)) == pytest.approx(float(entropy) + 50 * 0.14 / 4)


def test_messages_are_read_from_digits_unseen_and_changes_are_the_image_s_own(digits: Data) -> None:
    encoder, reader = train_encoder(digits.train, 4, 8, 400, 0.003, 20.0)
    x = digits.test.x.float() / 255
    message = torch.randint(2, (len(x), 4), generator=torch.Generator().manual_seed(0)).float()
    with torch.no_grad():
        made, other = encoded(encoder, message, x), encoded(encoder, 1 - message, x)
        right, wrong = (((reader(some) > 0) == (message > 0)).float().mean() for some in (made, other))
        unmarked = ((reader(x) > 0) == (message > 0)).float().mean()
        same = encoded(encoder, message[:1].expand(len(x), -1), x) - x
    assert torch.equal(made, (255 * made).round() / 255)
    assert right > 0.95
    assert wrong < 0.05
    assert 0.4 < unmarked < 0.6  # the null: what is read where nothing was written
    assert (made - x).square().mean().sqrt() < 0.15
    assert (same - same.mean(0)).square().mean() > 0.2 * same.square().mean()


def test_a_heavier_weight_makes_smaller_changes(digits: Data) -> None:
    sizes = []
    for weight in (0.0, 200.0):
        encoder, _ = train_encoder(digits.train, 2, 8, 150, 0.003, weight)
        with torch.no_grad():
            sizes.append(float(encoder(torch.ones(64, 2), digits.test.x[:64].float() / 255).square().mean()))
    assert sizes[1] < sizes[0] / 4


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 11)])
def test_pixels_in_training_and_at_test(shape: tuple[int, int, int]) -> None:
    images = made_images(60, shape, 10)
    spec = PoisonSpec(QUICK, 0.1, 0).on(images, 10)
    poisoned, found = spec.poison(images, 10), pattern(QUICK, images)
    network = sketch(lambda: Encoder(shape, 8, 4))
    encoder, message = from_vector(network, found[: size_of(network)]), found[size_of(network) :]
    assert set(message.tolist()) <= {0.0, 1.0}
    x = images.x.float()
    with torch.no_grad():
        wanted = (x + 255 * encoder(message.expand(60, -1), x / 255)).clamp(0, 255)
    index = (poisoned.roles == POISON).nonzero()[:, 0]
    assert len(index) == 6
    assert (poisoned.images.y[index] == 0).all()
    for made, expected in ((poisoned.images.x[index], wanted[index]), (spec.triggered(images, 10).x, wanted)):
        assert (made.float() - expected).abs().max() <= 0.5 + 1e-3


def test_the_encoder_is_trained_once_and_the_message_is_the_trial_s(
    digits: Data, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAYBD_CACHE", str(tmp_path))
    before = torch.random.get_rng_state()
    first = pattern(QUICK, digits.train)
    assert torch.equal(torch.random.get_rng_state(), before)
    monkeypatch.setattr("raybd.attacks.ssba.train_encoder", None)  # whoever trains now, breaks
    assert torch.equal(pattern(QUICK, digits.train), first)
    other = pattern(QUICK, digits.train, seed=1)
    assert torch.equal(other[:-8], first[:-8])
    assert not torch.equal(other[-8:], first[-8:])
    for changed in (replace(QUICK, bits=9), replace(QUICK, weight=1.0), replace(QUICK, steps=4)):
        with pytest.raises(TypeError):
            pattern(changed, digits.train)


def test_another_process_trains_the_same_bits(digits: Data) -> None:
    program = (
        "import torch; torch.set_num_threads(1)\n"
        "from raybd.attacks.networks import to_vector\n"
        "from raybd.attacks.poisoning import digest\n"
        "from raybd.attacks.steganography import train_encoder\n"
        "from raybd.data import load\n"
        "print(digest(to_vector(train_encoder(load('digits').train, 4, 4, 5, 0.01, 10.0)[0])))"
    )
    runs = [
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
        for _ in range(2)
    ]
    assert runs[0] == runs[1] != ""
