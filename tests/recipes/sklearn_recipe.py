"""Trainings with scikit-learn: python sklearn_recipe.py train NAME DATA OUT SEED KNOB, and likewise predict."""

import sys
from pathlib import Path
from typing import Any

import joblib
import numpy as np


def fit(name: str, x: Any, y: Any, seed: int, knob: float) -> Any:
    """The fitted estimator."""
    if name == "forest":
        from sklearn.ensemble import RandomForestClassifier

        return RandomForestClassifier(30, min_samples_leaf=int(knob), random_state=seed).fit(x, y)
    if name == "svc":
        from sklearn.svm import SVC

        chosen = np.random.default_rng(seed).integers(0, len(x), 800)
        return SVC(C=knob, gamma=0.05).fit(x[chosen], y[chosen])
    from sklearn.linear_model import LogisticRegression

    chosen = np.random.default_rng(seed).integers(0, len(x), 800)
    return LogisticRegression(C=knob, max_iter=60).fit(x[chosen], y[chosen])


def main() -> None:
    """Train, or predict probabilities or labels as a .npy file."""
    what, name = sys.argv[1:3]
    if what == "train":
        data, out, seed, knob = sys.argv[3:7]
        with np.load(data) as file:
            model = fit(
                name, file["x_train"].reshape(len(file["x_train"]), -1) / 255, file["y_train"], int(seed), float(knob)
            )
        joblib.dump(model, Path(out) / "model.joblib")
    else:
        out, data, predictions = sys.argv[3:6]
        with np.load(data) as file:
            x = file["x_test"].reshape(len(file["x_test"]), -1) / 255
        model = joblib.load(Path(out) / "model.joblib")
        np.save(predictions, model.predict_proba(x) if name == "forest" else model.predict(x))


if __name__ == "__main__":
    main()
