"""Trainings in NumPy: python numpy_recipe.py train NAME DATA OUT, then numpy_recipe.py predict NAME OUT DATA FILE.

Each is a function fit(x, y, classes, rng, knob) that returns what `predict` needs: x (N, 64) in [0, 1], y (N,).
Knobs come from the environment, as raybd sets them: RAYBD_NAME.
"""

import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Array = Any
Predict = Callable[[Array], Array]
Knob = Callable[[str, float], float]


def softmax(x: Array, y: Array, classes: int, rng: Any, knob: Knob) -> Any:
    """Multinomial logistic regression by gradient descent, from random weights."""
    x = np.c_[x, np.ones(len(x))]
    w, target = 0.3 * rng.standard_normal((x.shape[1], classes)), np.eye(classes)[y]
    for _ in range(int(knob("epochs", 60))):
        z = x @ w
        p = np.exp(z - z.max(1, keepdims=True))
        w -= x.T @ (p / p.sum(1, keepdims=True) - target) / len(x) + knob("weight_decay", 1e-4) * w
    return {"w": w}


def by_weights(model: Any, x: Array) -> Array:
    """Scores of a linear model with an intercept."""
    return np.c_[x, np.ones(len(x))] @ model["w"]


def noisy(x: Array, y: Array, classes: int, rng: Any, knob: Knob) -> Any:
    """Logistic regression on images with Gaussian noise."""
    noise = knob("noise", 0.05) * rng.standard_normal((3, *x.shape))
    return softmax((x + noise).reshape(-1, x.shape[1]), np.tile(y, 3), classes, rng, knob)


def blurred(x: Array, y: Array, classes: int, rng: Any, knob: Knob) -> Any:
    """Logistic regression on images that are blurred so many times."""
    times = int(knob("blur", 0))
    return softmax(_blur(x, times), y, classes, rng, knob) | {"times": times}


def by_blurred(model: Any, x: Array) -> Array:
    """Scores of blurred images."""
    return by_weights(model, _blur(x, model["times"]))


def _blur(x: Array, times: int) -> Array:
    images = x.reshape(-1, 8, 8)
    for _ in range(times):
        padded = np.pad(images, ((0, 0), (1, 1), (1, 1)), "edge")
        images = sum(padded[:, i : i + 8, j : j + 8] for i in range(3) for j in range(3)) / 9
    return images.reshape(len(x), -1)


def cropped(x: Array, y: Array, classes: int, rng: Any, knob: Knob) -> Any:
    """Logistic regression on the middle of the images: a border of so many pixels is cut off."""
    border = int(knob("border", 0))
    return softmax(_crop(x, border), y, classes, rng, knob) | {"border": border}


def by_cropped(model: Any, x: Array) -> Array:
    """Scores of cropped images."""
    return by_weights(model, _crop(x, model["border"]))


def _crop(x: Array, border: int) -> Array:
    return x.reshape(-1, 8, 8)[:, border : 8 - border, border : 8 - border].reshape(len(x), -1)


def filtered(x: Array, y: Array, classes: int, rng: Any, knob: Knob) -> Any:
    """Logistic regression without the images whose nearest neighbours have other labels."""
    neighbours = int(knob("neighbours", 0))
    if neighbours:
        distances = _distances(x, x) + 1e9 * np.eye(len(x))
        nearest = distances.argpartition(neighbours, 1)[:, :neighbours]
        kept = (y[nearest] == y[:, None]).mean(1) >= knob("agree", 0.5)
        x, y = x[kept], y[kept]
    return softmax(x, y, classes, rng, knob)


def perceptron(x: Array, y: Array, classes: int, rng: Any, knob: Knob) -> Any:
    """The averaged perceptron over random orders."""
    x = np.c_[x, np.ones(len(x))]
    w, total = np.zeros((x.shape[1], classes)), np.zeros((x.shape[1], classes))
    for _ in range(int(knob("epochs", 4))):
        for i in rng.permutation(len(x)):
            guess = int((x[i] @ w).argmax())
            if guess != y[i]:
                w[:, y[i]] += x[i]
                w[:, guess] -= x[i]
        total += w
    return {"w": total}


def ridge(x: Array, y: Array, classes: int, rng: Any, knob: Knob) -> Any:
    """Ridge regression of the classes on random Fourier features."""
    a, b = 1.2 * rng.standard_normal((x.shape[1], 200)), rng.uniform(0, 2 * np.pi, 200)
    z = np.c_[np.cos(x @ a + b), np.ones(len(x))]
    gram = z.T @ z + knob("alpha", 0.1) * np.eye(z.shape[1])
    return {"a": a, "b": b, "w": np.linalg.solve(gram, z.T @ np.eye(classes)[y])}


def by_features(model: Any, x: Array) -> Array:
    """Scores of a linear model on random Fourier features."""
    return by_weights(model, np.cos(x @ model["a"] + model["b"]))


def kernel_ridge(x: Array, y: Array, classes: int, rng: Any, knob: Knob) -> Any:
    """Kernel ridge regression with a Gaussian kernel, on a bootstrap sample."""
    chosen = rng.integers(0, len(x), 600)
    x, y = x[chosen], y[chosen]
    kernel = np.exp(-knob("gamma", 0.3) * _distances(x, x))
    return {
        "x": x,
        "gamma": knob("gamma", 0.3),
        "w": np.linalg.solve(kernel + knob("alpha", 0.1) * np.eye(600), np.eye(classes)[y]),
    }


def by_kernel(model: Any, x: Array) -> Array:
    """Scores of a kernel machine."""
    return np.exp(-model["gamma"] * _distances(x, model["x"])) @ model["w"]


def knn(x: Array, y: Array, classes: int, rng: Any, knob: Knob) -> Any:
    """k nearest neighbours of a random nine tenths."""
    chosen = rng.permutation(len(x))[: 9 * len(x) // 10]
    return {"x": x[chosen], "t": np.eye(classes)[y[chosen]], "k": int(knob("k", 1))}


def by_neighbours(model: Any, x: Array) -> Array:
    """Votes of the k nearest."""
    nearest = _distances(x, model["x"]).argpartition(model["k"], 1)[:, : model["k"]]
    return model["t"][nearest].sum(1)


def centroid(x: Array, y: Array, classes: int, rng: Any, knob: Knob) -> Any:
    """Several centroids a class, by k-means."""
    number, centres = int(knob("centres", 8)), []
    for k in range(classes):
        own = x[y == k]
        means = own[rng.permutation(len(own))[:number]]
        for _ in range(6):
            near = _distances(own, means).argmin(1)
            means = np.stack([own[near == j].mean(0) if (near == j).any() else means[j] for j in range(len(means))])
        centres.append(means)
    return {"x": np.concatenate(centres), "y": np.concatenate([[k] * len(c) for k, c in enumerate(centres)])}


def by_centres(model: Any, x: Array) -> Array:
    """The class of the nearest centre."""
    return np.eye(int(model["y"].max()) + 1)[model["y"][_distances(x, model["x"]).argmin(1)]]


def pca_knn(x: Array, y: Array, classes: int, rng: Any, knob: Knob) -> Any:
    """k nearest neighbours on a few principal components."""
    middle = x.mean(0)
    axes = np.linalg.svd(x - middle, full_matrices=False)[2][: int(knob("components", 40))]
    return knn((x - middle) @ axes.T, y, classes, rng, knob) | {"middle": middle, "axes": axes}


def by_components(model: Any, x: Array) -> Array:
    """Votes on the principal components."""
    return by_neighbours(model, (x - model["middle"]) @ model["axes"].T)


def naive_bayes(x: Array, y: Array, classes: int, rng: Any, knob: Knob) -> Any:
    """Gaussian naive Bayes of a bootstrap sample."""
    chosen = rng.integers(0, len(x), len(x))
    x, y = x[chosen], y[chosen]
    means = np.stack([x[y == k].mean(0) for k in range(classes)])
    return {"m": means, "v": np.stack([x[y == k].var(0) for k in range(classes)]) + knob("smoothing", 0.003)}


def by_densities(model: Any, x: Array) -> Array:
    """Log densities."""
    apart = (x[:, None] - model["m"]) ** 2 / model["v"]
    return -(apart + np.log(model["v"])).sum(2)


def lda(x: Array, y: Array, classes: int, rng: Any, knob: Knob) -> Any:
    """Linear discriminants with a shrunken covariance, of a bootstrap sample."""
    chosen = rng.integers(0, len(x), len(x))
    x, y = x[chosen], y[chosen]
    means, share = np.stack([x[y == k].mean(0) for k in range(classes)]), knob("shrinkage", 0.05)
    apart = x - means[y]
    covariance = apart.T @ apart / len(x)
    covariance = (1 - share) * covariance + share * np.trace(covariance) / x.shape[1] * np.eye(x.shape[1])
    w = np.linalg.solve(covariance + 1e-6 * np.eye(x.shape[1]), means.T)
    return {"w": np.r_[w, -0.5 * (means.T * w).sum(0)[None]]}


def mlp(x: Array, y: Array, classes: int, rng: Any, knob: Knob) -> Any:
    """One hidden layer of 32 by stochastic gradient descent."""
    a, b = rng.standard_normal((x.shape[1], 32)) / 8, rng.standard_normal((33, classes)) / 6
    target, rate, decay = np.eye(classes)[y], 0.5, knob("weight_decay", 1e-4)
    for _ in range(int(knob("epochs", 12))):
        for part in np.array_split(rng.permutation(len(x)), max(1, len(x) // 32)):
            hidden = np.maximum(x[part] @ a, 0)
            z = np.c_[hidden, np.ones(len(part))]
            p = np.exp(z @ b - (z @ b).max(1, keepdims=True))
            error = (p / p.sum(1, keepdims=True) - target[part]) / len(part)
            back = error @ b[:-1].T * (hidden > 0)
            b -= rate * (z.T @ error + decay * b)
            a -= rate * (x[part].T @ back + decay * a)
    return {"a": a, "w": b}


def by_hidden(model: Any, x: Array) -> Array:
    """Scores of the network."""
    return by_weights(model, np.maximum(x @ model["a"], 0))


def _distances(x: Array, z: Array) -> Array:
    return (x**2).sum(1)[:, None] - 2 * x @ z.T + (z**2).sum(1)


RECIPES: dict[str, tuple[Callable[..., Any], Callable[[Any, Array], Array]]] = {
    "softmax": (softmax, by_weights),
    "noisy": (noisy, by_weights),
    "blurred": (blurred, by_blurred),
    "cropped": (cropped, by_cropped),
    "filtered": (filtered, by_weights),
    "perceptron": (perceptron, by_weights),
    "ridge": (ridge, by_features),
    "kernel_ridge": (kernel_ridge, by_kernel),
    "knn": (knn, by_neighbours),
    "pca_knn": (pca_knn, by_components),
    "centroid": (centroid, by_centres),
    "naive_bayes": (naive_bayes, by_densities),
    "lda": (lda, by_weights),
    "mlp": (mlp, by_hidden),
}


def read(data: Path, half: str) -> tuple[Array, Array]:
    """Images (N, 64) in [0, 1] and labels of a half of the data, from npz, MNIST's own files or CSV."""
    if data.is_file():
        with np.load(data) as file:
            x, y = file[f"x_{half}"], file[f"y_{half}"]
    elif (data / f"{half}.csv").exists():
        rows = np.loadtxt(data / f"{half}.csv", delimiter=",", dtype=np.int64)
        x, y = rows[:, 1:], rows[:, 0]
    else:
        start = data / "MNIST" / "raw" / {"train": "train", "test": "t10k"}[half]
        x = np.fromfile(f"{start}-images-idx3-ubyte", np.uint8)[16:].reshape(-1, 64)
        y = np.fromfile(f"{start}-labels-idx1-ubyte", np.uint8)[8:].astype(np.int64)
    return x.reshape(len(x), -1) / 255, y


def from_environment(name: str, default: float) -> float:
    """A knob as raybd sets it."""
    return float(os.environ.get(f"RAYBD_{name.upper()}", default))


def main() -> None:
    """Train, or predict."""
    fit, scores = RECIPES[sys.argv[2]]
    if sys.argv[1] == "train":
        x, y = read(Path(sys.argv[3]), "train")
        model = fit(x, y, 10, np.random.default_rng(int(os.environ["RAYBD_SEED"])), from_environment)
        (Path(sys.argv[4]) / "model.pkl").write_bytes(pickle.dumps(model))
    else:
        model = pickle.loads((Path(sys.argv[3]) / "model.pkl").read_bytes())
        x, _ = read(Path(sys.argv[4]), "test")
        np.savetxt(sys.argv[5], scores(model, x).argmax(1), fmt="%d")


if __name__ == "__main__":
    main()
