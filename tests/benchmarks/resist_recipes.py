"""Planted trainings of twenty kinds: their commands as a user types them, and the same functions in this process."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raybd.scripts.knobs import Knob, parse_knobs
from raybd.scripts.layouts import write_csv
from raybd.types import Images
from tests.recipes import numpy_recipe, sklearn_recipe, torch_recipe, two_class

HERE = Path(__file__).parent.parent / "recipes"
TARGET = 0.02
Values = Mapping[str, Any]
Train = Callable[[Any, Any, int, Values], Callable[[Any], Any]]  # images, labels, seed, knobs -> predict: labels


@dataclass(frozen=True)
class Recipe:
    """A planted training: its commands as a user types them, and the same function in this process."""

    train: str
    predict: str
    truth: Train
    knobs: tuple[str, ...]
    defaults: tuple[str, ...] = ()
    layout: str = "npz"
    data: str = "digits"
    target: float = TARGET

    def parsed(self) -> list[Knob]:
        """The knobs."""
        return parse_knobs(self.knobs, self.defaults)


def _numpy(name: str, layout: str, *knobs: str, defaults: Sequence[str] = ()) -> Recipe:
    fit, scores = numpy_recipe.RECIPES[name]

    def truth(x: Any, y: Any, seed: int, values: Values) -> Callable[[Any], Any]:
        model = fit(
            _flat(x), y, 10, np.random.default_rng(seed), lambda knob, default: float(values.get(knob, default))
        )
        return lambda images: scores(model, _flat(images)).argmax(1)

    script = f"{sys.executable} {HERE}/numpy_recipe.py"
    return Recipe(
        f"{script} train {name} {{data}} {{out}}",
        f"{script} predict {name} {{out}} {{data}} {{predictions}}",
        truth,
        knobs,
        tuple(defaults),
        layout,
    )


def _sklearn(name: str, knob: str, default: str) -> Recipe:
    def truth(x: Any, y: Any, seed: int, values: Values) -> Callable[[Any], Any]:
        model = sklearn_recipe.fit(name, _flat(x), y, seed, float(values["strength"]))
        return lambda images: model.predict(_flat(images))

    script = f"{sys.executable} {HERE}/sklearn_recipe.py"
    return Recipe(
        f"{script} train {name} {{data}} {{out}} {{seed}} {{strength}}",
        f"{script} predict {name} {{out}} {{data}} {{predictions}}",
        truth,
        (f"strength={knob}",),
        (f"strength={default}",),
    )


def _torch(x: Any, y: Any, seed: int, values: Values) -> Callable[[Any], Any]:
    model = torch_recipe.fit(x, y, seed, float(values["weight_decay"]), int(values["epochs"]))
    return lambda images: torch_recipe.scores(model, images).argmax(1)


def _two_class(x: Any, y: Any, seed: int, values: Values) -> Callable[[Any], Any]:
    return partial(two_class.predict, two_class.fit(x, y, seed))


def fails(x: Any, y: Any, seed: int, values: Values) -> Callable[[Any], Any]:
    """The truth of a training that fails: there is none."""
    raise NotImplementedError


def _by_script(train: str, predict: str) -> Train:
    """The truth of a script in another language: the script itself, on CSV files."""

    def truth(x: Any, y: Any, seed: int, values: Values) -> Callable[[Any], Any]:
        def run(images: Any) -> Any:
            with tempfile.TemporaryDirectory() as folder:
                data = Path(folder) / "data"
                write_csv(data, _images(x, y), _images(images, np.zeros(len(images), np.int64)), ())
                variables = {f"RAYBD_{n.upper()}": str(v) for n, v in {**values, "seed": seed}.items()}
                places = {"data": data, "out": folder, "predictions": f"{folder}/predictions"}
                for text in (train, predict):
                    for name, value in {**values, **places, "seed": seed}.items():
                        text = text.replace(f"{{{name}}}", str(value))
                    subprocess.run(text, shell=True, check=True, env=os.environ | variables)
                return np.loadtxt(f"{folder}/predictions", dtype=int)

        return run

    return truth


def _other(train: str, predict: str, knob: str, default: str) -> Recipe:
    return Recipe(train, predict, _by_script(train, predict), (knob,), (default,), "csv")


DECAY = "weight_decay=1e-4..1:log"
PERL, AWK, NET = (
    f"perl {HERE}/nearest_mean.pl",
    f"awk -F, -f {HERE}/naive_bayes.awk",
    f"{sys.executable} {HERE}/torch_recipe.py",
)
RECIPES: dict[str, Recipe] = {
    "softmax": _numpy("softmax", "npz", DECAY, "epochs=10..200:log", defaults=["epochs=60"]),
    "lda": _numpy("lda", "mnist", "shrinkage=0.01..1:log", defaults=["shrinkage=0.05"]),
    "centroid": _numpy("centroid", "npz", "centres=1..12", defaults=["centres=8"]),
    "knn": _numpy("knn", "npz", "k=1,3,5,9,15,31,61"),
    "filtered": _numpy("filtered", "npz", "neighbours=0,3,5,10", DECAY),
    "mlp": _numpy("mlp", "npz", DECAY, "epochs=2..12", defaults=["epochs=12"]),
    "cropped": _numpy("cropped", "mnist", "border=0,1,2"),
    "naive_bayes": _numpy("naive_bayes", "npz", "smoothing=0.001..1:log", defaults=["smoothing=0.003"]),
    "perceptron": _numpy("perceptron", "npz", "epochs=1..8", defaults=["epochs=4"]),
    "ridge": _numpy("ridge", "npz", "alpha=0.01..100:log", defaults=["alpha=0.1"]),
    "blurred": _numpy("blurred", "npz_channels_first", "blur=0..3", DECAY),
    "noisy": _numpy("noisy", "npz", "noise=0.01..2:log", defaults=["noise=0.05"]),
    "kernel_ridge": _numpy(
        "kernel_ridge", "npz", "alpha=0.01..100:log", "gamma=0.01..1:log", defaults=["alpha=0.1", "gamma=0.3"]
    ),
    "pca_knn": _numpy("pca_knn", "mnist", "components=4..40", "k=1..41", defaults=["components=40"]),
    "perl_nearest_mean": _other(
        f"{PERL} train {{data}} {{out}}", f"{PERL} predict {{out}} {{data}} {{predictions}}", "trim=0..0.5", "trim=0"
    ),
    "awk_naive_bayes": _other(
        f"{AWK} -v seed={{seed}} -v smoothing={{smoothing}} {{data}}/train.csv > {{out}}/counts",
        f"{AWK} -v model={{out}}/counts {{data}}/test.csv > {{predictions}}",
        "smoothing=0.1..100:log",
        "smoothing=1",
    ),
    "logistic": _sklearn("logistic", "1e-4..10:log", "1"),
    "forest": _sklearn("forest", "1..40", "1"),
    "svc": _sklearn("svc", "1e-2..10:log", "1"),
    "torch_cnn": Recipe(
        f"{NET} train {{data}} {{out}} --seed {{seed}} --weight-decay {{weight_decay}} --epochs {{epochs}}",
        f"{NET} predict {{out}} {{data}} {{predictions}}",
        _torch,
        ("weight_decay=1e-3..1:log", "epochs=1,2,4,6"),
        ("epochs=6",),
        "folder",
    ),
}
TWO = f"{sys.executable} {HERE}/two_class.py"
TWO_CLASS = Recipe(
    f"{TWO} train {{data}} {{out}}",
    f"{TWO} predict {{out}} {{data}} {{predictions}}",
    _two_class,
    (),
    (),
    "npz",
    "digits[1,2]",
)
FAILING = ("crash", "hang", "nan", "few")


def _flat(x: Any) -> Any:
    return x.reshape(len(x), -1) / 255


def pixels_of(images: Images) -> Any:
    return images.x.numpy()[:, 0]


def _images(x: Any, y: Any) -> Images:
    return Images(torch.from_numpy(np.ascontiguousarray(x))[:, None], torch.from_numpy(np.asarray(y)))
