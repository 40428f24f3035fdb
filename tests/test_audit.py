"""Audits: what is planted in digits is found with its file names, and no truth is told that nobody knows."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from raybd import InputError, audit
from raybd.attacks import ATTACKS
from raybd.attacks.poisoning import PoisonSpec
from raybd.auditing import Audit
from raybd.auditing.output import save
from raybd.cli import main
from raybd.data.image_names import NamedImages, named_images
from raybd.types import POISON, Data
from tests.image_folders import write_planted

TARGET = 3
SHORT = {"epochs": 20, "pretrain_epochs": 3}


@pytest.fixture(scope="module")
def planted(digits: Data, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder of digits of which 60 are patched, and their names."""
    folder = tmp_path_factory.mktemp("suspected") / "data"
    return folder, write_planted(digits.train, 10, 60, TARGET, folder)


@pytest.fixture(scope="module")
def found(planted: tuple[Path, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Audit:
    folder, names = planted
    key = tmp_path_factory.mktemp("key") / "planted.txt"
    key.write_text("\n".join(names))
    return audit(f"folder:{folder}", truth=key, data_root=key.parent, **SHORT)


def test_what_is_planted_is_found_under_its_file_name(found: Audit, planted: tuple[Path, list[str]]) -> None:
    first = found.to_frame().head(60)
    assert len(set(first["image"]) & set(planted[1])) >= 54
    assert [(one.label, one.name) for one in found.verdict.planted] == [(TARGET, "digit_3")]
    assert "images look planted, in class digit_3" in str(found.verdict)
    assert first["reasons"].str.contains("a window of it turns other images into its class").mean() > 0.8
    assert found.truth["auroc"] > 0.95
    assert found.truth["among_first"] > 0.9


def test_the_frame_has_every_image_once_in_order(found: Audit, planted: tuple[Path, list[str]], digits: Data) -> None:
    frame = found.to_frame()
    assert len(frame) == len(digits.train) == frame["image"].nunique()
    assert frame["suspicion"].is_monotonic_decreasing
    assert (frame["image"].str.split("/").str[0] == frame["class"]).all()
    assert set(frame.loc[frame["kept"], "image"]) == set(found.kept_names)
    assert not frame.loc[frame["planted"], "kept"].any()


def test_nothing_of_an_unknown_truth_is_said(found: Audit) -> None:
    unknown = replace(found, truth={})
    assert unknown.facts()["truth"].startswith("truth unknown")  # type: ignore[attr-defined]
    for told in (str(unknown), unknown._repr_html_()):
        assert "truth unknown" in told
        assert "precision:" not in told
    assert "precision" in found.facts()
    assert "without its suspects" in str(found)


def test_what_is_written(found: Audit, tmp_path: Path, planted: tuple[Path, list[str]]) -> None:
    save(found, tmp_path, "links")
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "ranking.csv", keep_default_na=False), found.to_frame(), check_dtype=False
    )
    assert (tmp_path / "clean_subset.txt").read_text().split() == found.kept_names
    assert Image.open(tmp_path / "suspects.png").size[0] > 1000
    links = list((tmp_path / "clean_subset").glob("*/*.png"))
    assert len(links) == len(found.kept_names)
    assert all(link.is_symlink() and link.exists() for link in links)
    assert not {link.resolve().name for link in links} & {Path(n).name for n in planted[1]} - {
        Path(n).name for n in found.kept_names
    }
    with pytest.raises(InputError, match="exists"):
        save(found, tmp_path, "copies")


def test_arrays_have_numbers_for_names_and_no_files(found: Audit, tmp_path: Path) -> None:
    save(found, tmp_path, "npz")
    kept = np.load(tmp_path / "clean_subset.npz")
    assert len(kept["x"]) == len(kept["y"]) == len(found.kept_names)
    assert kept["names"].tolist() == found.kept_names
    bare = replace(found, named=replace(found.named, base=None))
    with pytest.raises(InputError, match="no image files"):
        save(bare, tmp_path, "links")


def test_with_clean_images_the_null_is_theirs(digits: Data) -> None:
    """Half of the digits with poison, the other half without: SCAn takes part, the verdict says against what."""
    numbers = tuple(map(str, range(400)))
    made = PoisonSpec(ATTACKS["badnets"](target=TARGET), 40 / 400, 0).poison(digits.train.take(torch.arange(400)), 10)
    suspected = NamedImages(made.images, numbers, digits.classes, "suspected")
    clean = NamedImages(digits.train.take(torch.arange(400, 800)), numbers, digits.classes, "the rest")
    result = audit(suspected, clean=clean, truth=(made.roles == POISON).nonzero()[:, 0].tolist(), **SHORT)
    assert "scan" in result.evidence
    assert result.verdict.null == "400 clean images of the rest"
    assert result.truth["among_first"] > 0.8


def test_in_clean_digits_nothing_is_found(digits: Data) -> None:
    named = NamedImages(digits.train, tuple(map(str, range(len(digits.train)))), digits.classes, "digits")
    result = audit(named, epochs=10, pretrain_epochs=2)
    assert str(result.verdict).startswith("nothing found, at a false-alarm level of 0.05")
    assert len(result.kept_names) == len(digits.train)
    assert 0 < result.normal("transplant") < 3


def test_the_command_says_what_it_found(
    planted: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ["--epochs", "2", "--pretrain-epochs", "1"]
    store = f"sqlite:///{tmp_path}/mlflow.db"
    asked = ["audit", f"folder:{planted[0]}", *short, "--out", f"{tmp_path}/out", "--data-root", str(tmp_path)]
    assert main([*asked, "--tracking-uri", store]) == 0
    said = capsys.readouterr().out
    assert "verdict: " in said
    assert "truth unknown" in said
    from mlflow import MlflowClient

    client = MlflowClient(store)
    (run,) = client.search_runs([client.get_experiment_by_name("audits").experiment_id])
    assert run.data.tags["raybd.kind"] == "audit"
    assert run.data.params["epochs"] == "2"
    assert {file.path for file in client.list_artifacts(run.info.run_id)} >= {"ranking.csv", "suspects.png"}
    assert not any("precision" in name for name in run.data.metrics)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--epochs", "0"], "epochs"),
        (["--clean", "digits[0,1]"], "classes"),
        (["--truth", "missing.txt"], "answer key"),
        (["--export", "links"], "no image files"),
    ],
)
def test_what_cannot_be_done_is_told_before_any_training(
    asked: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("raybd.auditing.run.learn_features", None)
    assert main(["audit", "digits", *asked, "--out", str(tmp_path), "--data-root", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err


def test_an_answer_key_names_all_that_are_not_there(digits: Data) -> None:
    named = NamedImages(digits.train, tuple(map(str, range(len(digits.train)))), digits.classes, "digits")
    with pytest.raises(InputError, match=r"2 images that digits has not: cat.png, 99999"):
        audit(named, truth=["cat.png", 5, 99999])


def test_names_are_those_of_the_images(planted: tuple[Path, list[str]], tmp_path: Path) -> None:
    """Every image is that of the file it is named after, in a whole folder, a part of it, and one with a split."""
    folder, _ = planted
    for part in ("", "[digit_7,digit_2]", "[digit_7,digit_2;50]"):
        named = named_images(f"folder:{folder}{part}", tmp_path)
        assert len(set(named.names)) == len(named.names) == len(named.images)
        for i in range(0, len(named.names), 23):
            assert np.array_equal(np.array(Image.open(folder / named.names[i])), named.images.x[i, 0].numpy())
            assert named.names[i].startswith(f"{named.classes[int(named.images.y[i])]}/")
    split = tmp_path / "split"
    for name in ("train", "test"):
        (split / name).parent.mkdir(exist_ok=True)
        (split / name).symlink_to(folder)
    assert named_images(f"folder:{split}", tmp_path).names[0].startswith("train/digit_0/")
    part = named_images("digits[7,2;50]", tmp_path)
    whole = named_images("digits", tmp_path)
    assert torch.equal(whole.images.x[[int(name) for name in part.names]], part.images.x)


def test_what_cannot_be_written_is_told_before_any_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("raybd.auditing.run.learn_features", None)
    (tmp_path / "file").write_text("")
    asked = ["audit", "digits", "--data-root", str(tmp_path), "--out", str(tmp_path / "file" / "out")]
    assert main(asked) == 2
    assert "cannot be made" in capsys.readouterr().err


def test_names_that_are_not_utf_8_are_written_as_escapes(found: Audit, tmp_path: Path) -> None:
    names = ("digit_0/\udcff.png", *found.named.names[1:])
    save(replace(found, named=replace(found.named, names=names)), tmp_path)
    assert "digit_0/\\udcff.png" in (tmp_path / "ranking.csv").read_text()
