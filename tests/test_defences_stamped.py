"""NAB and PDB: the stamp, what is relabelled and what the deployed network sees, against hand-made cases."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from raybd.defences import TrainingContext
from raybd.defences.nab import Nab, nearest_centre, relabelled, stamped_loss
from raybd.defences.npd import Npd, Polarizer
from raybd.defences.pdb import Pdb, unnamed
from raybd.defences.stamped import Stamped
from raybd.defences.trainer import Trainer
from raybd.errors import InputError
from raybd.models import Classifier, build_model
from raybd.models.network_files import export_network
from raybd.pretraining.ops import affine
from raybd.seeds import stream
from raybd.training import TrainConfig
from raybd.types import Data, Images

HOW = TrainConfig(epochs=2, learning_rate=0.02)


def network(digits: Data) -> Classifier:
    torch.manual_seed(0)
    model = build_model("small_cnn", digits.train.shape, 10, digits.mean, digits.std, width=0.25)
    assert isinstance(model, Classifier)
    return model


def context(digits: Data, defence: Nab | Pdb, n: int = 200) -> TrainingContext:
    images, trusted = digits.train.take(torch.arange(n)), digits.train.take(torch.arange(400, 500))
    return TrainingContext(
        model=defence.network(network(digits)),
        images=images,
        classes=10,
        train_config=HOW,
        seed=0,
        trusted=trusted if defence.access == "clean images" else None,
    )


@pytest.mark.parametrize(("pixels", "side", "wanted"), [(8, 2 / 32, 2), (32, 2 / 32, 2), (32, 7 / 32, 7), (64, 0.1, 6)])
def test_a_stamp_covers_the_upper_left_corner_and_nothing_else(
    digits: Data, pixels: int, side: float, wanted: int
) -> None:
    x = torch.rand(3, 1, pixels, pixels + 1)
    found = Stamped(network(digits), side, torch.full((1, 1, 1, 1), 2.0)).stamp(x)
    assert (found[:, :, :wanted, :wanted] == 2).all()
    found[:, :, :wanted, :wanted] = x[:, :, :wanted, :wanted]
    assert torch.equal(found, x)


def test_only_the_deployed_network_stamps_and_measures_of_features_see_it(digits: Data) -> None:
    inner = network(digits)
    model, x = Stamped(copy.deepcopy(inner), 2 / 32, inner.mean), torch.rand(5, *digits.train.shape)
    hand = x.clone()
    hand[:, :, :2, :2] = digits.mean[0]
    assert torch.equal(model.train()(x), inner.train()(x))
    model.inner.load_state_dict(inner.state_dict())
    assert torch.equal(model.eval()(x), inner.eval()(hand))
    assert not torch.equal(model(x), inner(x))
    assert torch.equal(model.classify(model.features(model.normalise(x))), model(x))
    assert torch.equal(copy.deepcopy(model)(x), model(x))


@pytest.mark.parametrize("defence", [Nab(), Npd()])
def test_what_is_added_is_exported_and_loaded_with_the_network(digits: Data, defence: Nab | Npd) -> None:
    """NAB's stamp, NPD's layer."""
    ours, theirs = (defence.network(network(digits)).eval() for _ in range(2))
    for module in ours.modules():
        if isinstance(module, Polarizer):
            module.activate()
            module.convolution.weight.data.mul_(1.3)
    x = torch.rand(7, *digits.train.shape)
    wanted = ours(x).detach()
    assert not torch.equal(wanted, network(digits).eval()(x))
    torch.testing.assert_close(export_network(ours, digits.train.shape).module()(x).detach(), wanted)
    theirs.load_state_dict(ours.state_dict())
    assert torch.equal(theirs(x), wanted)


def test_the_nearest_centre_by_hand_leaves_out_what_does_not_count() -> None:
    rows = [[0.0, 0], [1, 0], [10, 0], [11, 0], [9.0, 1], [0.5, 0.5], [5.4, 0]]
    features, y = torch.tensor(rows, dtype=torch.float64), torch.tensor([0, 0, 2, 2, 0, 2, 2])
    counted = torch.tensor([True, True, True, True, False, False, False])
    assert nearest_centre(features, y, counted, 4).tolist() == [0, 0, 2, 2, 2, 0, 0]  # classes 1 and 3 have no image
    everything = torch.ones(7, dtype=torch.bool)
    means = np.array([features[y == label].mean(0).numpy() for label in (0, 2)])
    distances = ((features.numpy()[:, None] - means) ** 2).sum(2)
    hand = (2 * distances.argmin(1)).tolist()
    assert nearest_centre(features, y, everything, 4).tolist() == hand
    assert hand[-1] == 2  # whom the mean of all is nearer
    moved = features @ torch.linalg.qr(torch.randn(2, 2, generator=stream(0, "turn")).double())[0] + 3
    assert torch.equal(nearest_centre(moved, y, counted, 4), nearest_centre(features, y, counted, 4))
    assert nearest_centre(features, y, ~everything, 4).tolist() == hand


def test_what_is_relabelled_and_what_is_stamped_by_hand() -> None:
    y, suspects = torch.tensor([3, 3, 3, 3]), torch.tensor([True, True, False, False])
    labels, stamped = relabelled(y, suspects, torch.tensor([3, 5, 5, 3]))
    assert labels.tolist() == [3, 5, 3, 3]
    assert stamped.tolist() == [False, True, False, False]


def test_nab_trains_on_the_stamp_where_it_relabels(digits: Data) -> None:
    at = context(digits, Nab())
    trainer, model = Trainer(at), at.model
    assert isinstance(model, Stamped)
    x, y = at.images.x[:6].float() / 255, at.images.y[:6]
    stamped = torch.arange(200) % 2 == 0
    index = torch.tensor([0, 1, 2, 3, 5, 7])
    hand = x.clone()
    hand[[0, 2], :, :2, :2] = digits.mean[0]
    model.train()
    wanted = F.cross_entropy(copy.deepcopy(model.inner)(hand), y)
    found = stamped_loss(trainer, model, stamped, x, y, index)
    torch.testing.assert_close(found, wanted)


def test_nab_s_pseudo_labels_are_near_the_truth_and_one_encoder_serves_both_detections(digits: Data) -> None:
    """Digits without labels: nearest means of an encoder of a few epochs name most of them."""
    found = {}
    for detection in ("lga", "ln"):
        defence = Nab(detection=detection, pretrain_epochs=10, isolation=0.1)
        at = context(digits, defence, 400)
        wrong = at.images.y.clone()
        wrong[:40] = (wrong[:40] + 1) % 10
        at = replace(at, images=Images(at.images.x, wrong))
        epochs = list(defence.train(at))
        found[detection] = at.findings["flagged"]
        assert int(at.findings["flagged"].sum()) == 40
        assert 0 < epochs[-1].numbers["defence/stamped"] <= 0.1
        lowest = at.findings["suspicion"][at.findings["flagged"]].min()
        assert lowest >= at.findings["suspicion"][~at.findings["flagged"]].max()
    assert float(found["ln"][:40].float().mean()) > 0.5  # wrong labels are what a head on such features finds hard


def test_pdb_is_the_papers_training_up_to_the_names_of_outputs(digits: Data) -> None:
    """The paper: unstamped images with y, stamped ones with h(y), and h^-1 taken of the deployed logits."""
    defence = Pdb(darker=0.0, turned=0.0)
    at = context(digits, defence)
    trainer, ours = Trainer(at), at.model
    assert isinstance(ours, Stamped)
    theirs = copy.deepcopy(ours.inner)
    order = (torch.arange(10) - 1) % 10  # their output of class k is our output of k - 1
    with torch.no_grad():
        theirs.head.weight.copy_(ours.head.weight[order])
        theirs.head.bias.copy_(ours.head.bias[order])
    x, y, index = at.images.x[:8].float() / 255, at.images.y[:8], torch.tensor([0, 1, 2, 3, 200, 201, 202, 203])
    named = torch.where(index < 200, unnamed(y, 10), y)
    ours.train()
    loss = defence._loss(trainer, 200, stream(0, "any"), x, named, index)
    shown = x.clone()
    shown[4:, :, :2, :2] = 2.0
    wanted = F.cross_entropy(theirs.train()(shown), torch.where(index < 200, y, (y + 1) % 10))
    torch.testing.assert_close(loss, wanted)
    ours.eval(), theirs.eval()
    theirs.load_state_dict({k: v for k, v in ours.inner.state_dict().items() if "head" not in k}, strict=False)
    stamped = x.clone()
    stamped[:, :, :2, :2] = 2.0
    inverse = theirs(stamped)[:, (torch.arange(10) + 1) % 10]  # class k is told by the output of h(k)
    torch.testing.assert_close(ours(x), inverse)


def test_pdb_darkens_and_turns_as_many_as_it_should() -> None:
    x = torch.ones(4000, 1, 8, 8)
    light = Pdb(turned=0.0).varied(x, stream(0, "dark")).amin((1, 2, 3))
    assert float((light < 1).float().mean()) == pytest.approx(0.2, abs=0.02)
    assert float(light.min()) >= 0.5
    assert float(light[light < 1].mean()) == pytest.approx(0.75, abs=0.02)
    picture = torch.rand(1, 1, 8, 8, generator=stream(0, "picture")).expand(4000, 1, 8, 8)
    turned = Pdb(darker=0.0).varied(picture, stream(0, "turned"))
    moved = (turned != picture).flatten(1).any(1)
    assert float(moved.float().mean()) == pytest.approx(0.5, abs=0.03)
    ends = [affine(picture[:1], torch.tensor([[angle, 0.0, 1.0, 0.0, 0.0]])) for angle in (-10.0, 10.0)]
    apart = (turned - picture).flatten(1).norm(dim=1).max()
    assert float(apart) <= 1.01 * max(float((end - picture[:1]).norm()) for end in ends)


def test_pdb_asks_for_clean_images_of_every_class_and_takes_what_there_is(digits: Data) -> None:
    at = context(digits, Pdb())
    last = list(Pdb().train(at))[-1]
    assert last.numbers["defence/extra_images"] == pytest.approx(30, abs=5)  # a tenth of the 300 there were
    assert last.numbers["defence/passes"] == pytest.approx(2 * 5 * last.numbers["defence/extra_images"] / 200)
    with pytest.raises(InputError, match="set some aside"):
        next(iter(Pdb().train(replace(at, trusted=None))))
    assert at.trusted is not None
    with pytest.raises(InputError, match=r"none of \[7\]"):
        next(iter(Pdb().train(replace(at, trusted=at.trusted.take(at.trusted.y != 7)))))
