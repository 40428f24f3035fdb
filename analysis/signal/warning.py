"""Early warning: a calibrated probability, early in a training, that the backdoor takes hold in the end."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from analysis.signal.measures import RANDOM, SLOPES, Needs, measured
from analysis.signal.null import permuted_labels
from analysis.signal.table import interval
from raybd.early_warning import WarningModel, due_epoch
from raybd.errors import InputError

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

Floats = NDArray[np.float64]
DRAWS = 300  # of cells, for the intervals
BINS = 10  # of equal numbers, for the calibration error
PERMUTATIONS = 20  # of verdicts, for the null
DEFENDER = "defender/*"  # what `raybd.watch` can measure
STOP_SURE = 0.9  # as SURE, of a warning that stops trials
SURE = 0.8  # a probability from which the warning says yes, and under one less which it says no


@dataclass(frozen=True, kw_only=True)
class EarlyWarning:
    """Out-of-fold predictions of an early warning, each attack's by a model that has not seen it, and their worth."""

    predictions: pd.DataFrame  # trial, cell, attack, poison_rate, takes_hold, probability
    measures: tuple[str, ...]
    share: float  # of the training that had passed
    area: float  # AUC of all predictions
    area_low: float
    area_high: float
    by_attack: dict[str, float]  # AUC of each attack's trials beside the clean ones of its fold; NaN: on one side alone
    calibration_error: float
    calibration_low: float
    calibration_high: float
    null: float  # the largest AUC of `PERMUTATIONS` trainings on verdicts permuted within rates
    decided: float  # share of trials on which it does not abstain
    right: float  # of these, the share that is right

    def __str__(self) -> str:
        worst = min((v, k) for k, v in self.by_attack.items() if not np.isnan(v)) if self.by_attack else (np.nan, "-")
        return (
            f"After {self.share:.0%} of the training, from {len(self.measures)} measures, on attacks unseen: AUC "
            f"{self.area:.2f} ({self.area_low:.2f} to {self.area_high:.2f}; worst {worst[1]}, {worst[0]:.2f}; permuted "
            f"verdicts at most {self.null:.2f}), calibration error {self.calibration_error:.2f} "
            f"({self.calibration_low:.2f} to {self.calibration_high:.2f}); it decides {self.decided:.0%} of "
            f"{len(self.predictions)} trials, {self.right:.0%} of them rightly."
        )


def early_warning(
    observations: pd.DataFrame, share: float = 0.2, needs: Sequence[Needs] = ("nothing",)
) -> EarlyWarning:
    """A logistic regression from the last values of measures in the first `share` of the training.

    Each attack is predicted by a model fitted to the others; clean trials are dealt out to the attacks. Measures are
    standardised, missing ones replaced by the median.

    Args:
        observations: as `observe` makes them, of several attacks.
        share: of the epochs that have passed, in (0, 1].
        needs: which measures enter, by what they need.

    Raises:
        InputError: there are fewer than two attacks, all verdicts are equal, or no measure was taken so early.
    """
    trials, names = _early_trials(observations, share, _names(observations, needs))
    folds = _folds(trials)
    _check(trials, names, folds)
    x, y = trials[names].to_numpy(float), trials["takes_hold"].to_numpy(float)
    found = _out_of_fold(x, y, folds)
    keys = ["trial", "cell", "attack", "poison_rate", "takes_hold"]
    predictions = trials[keys].assign(probability=found)
    return _judged(predictions, tuple(names), share, folds, _null(trials, x, folds))


def fit_warning(
    observations: pd.DataFrame, share: float = 0.2, patterns: Sequence[str] = (DEFENDER,), sure: float = STOP_SURE
) -> WarningModel:
    """The early warning of `early_warning`, fitted to all trials, for `--stop-on-warning` and `raybd.watch`.

    Args:
        observations: as for `early_warning`.
        share: of the epochs that have passed.
        patterns: of the names of the measures that enter, of those that trials log themselves (slopes are not).
        sure: the probability from which it is sure that the backdoor takes hold, and under one less that it does not.

    Raises:
        InputError: as `early_warning`, or `sure` is not in (0.5, 1].
    """
    if not 0.5 < sure <= 1:
        raise InputError(f"sure must be above 0.5 and at most 1, got {sure}")
    trials, names = _early_trials(observations, share, logged(observations, patterns))
    _check(trials, names, _folds(trials))
    fitted = warning_pipeline().fit(trials[names].to_numpy(float), trials["takes_hold"].to_numpy(float))
    imputer, scaler, regression = (fitted[name] for name in ("simpleimputer", "standardscaler", "logisticregression"))
    attacks = sorted(trials.loc[trials["poison_rate"] > 0, "attack"].unique())
    epochs = sorted(map(int, observations.groupby("trial")["epoch"].max().unique()))
    return WarningModel(
        measures=names,
        share=share,
        sure=sure,
        median=imputer.statistics_.tolist(),
        mean=scaler.mean_.tolist(),
        scale=scaler.scale_.tolist(),
        coefficients=regression.coef_[0].tolist(),
        intercept=float(regression.intercept_[0]),
        fitted_to={
            "trials": len(trials),
            "cells": int(trials["cell"].nunique()),
            "attacks": attacks,
            "epochs": epochs,
        },
    )


def fit_stages(
    observations: pd.DataFrame,
    shares: Sequence[float] = (0.2,),
    patterns: Sequence[str] = (DEFENDER,),
    sure: Sequence[float] = (STOP_SURE,),
) -> list[WarningModel]:
    """An early warning of several stages, each as `fit_warning` fits it; `sure`: one for each share, or one for all.

    Raises:
        InputError: as `fit_warning`, or there are more or fewer `sure` than shares.
    """
    if len(sure) not in (1, len(shares)) or not shares:
        raise InputError(f"one `sure` for each share, or one for all: got {len(sure)} for {len(shares)}")
    each = sure if len(sure) == len(shares) else [*sure] * len(shares)
    return [fit_warning(observations, share, patterns, one) for share, one in zip(shares, each, strict=True)]


def _names(observations: pd.DataFrame, needs: Sequence[Needs] = ("nothing",)) -> list[str]:
    """The measures of the observations that somebody who has `needs` can take."""
    return [n for n, what in measured(map(str, observations.columns)).items() if what in needs and n != RANDOM]


def logged(table: pd.DataFrame, patterns: Sequence[str]) -> list[str]:
    """The measures among its columns that match one of `patterns`, but those that `observe` makes."""
    known = [name for name in measured(map(str, table.columns)) if name not in (RANDOM, *SLOPES)]
    return [name for name in known if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _early_trials(observations: pd.DataFrame, share: float, names: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """The trials with their early values, and those of `names` that were taken so early.

    Raises:
        InputError: `share` is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise InputError(f"share must be above 0 and at most 1, got {share}")
    trials = early_values(observations, "trial", share).reset_index()
    return trials, [name for name in names if trials[name].notna().any()]


def early_values(table: pd.DataFrame, trial: str, share: float) -> pd.DataFrame:
    """The last value of each column in the first `share` of the epochs of each trial, whose name is in column `trial`.

    Args:
        table: a row a trial and epoch.
        trial: name of the column; the index of what is returned.
        share: of the epochs, by `raybd.early_warning.due_epoch`.
    """
    due = table.groupby(trial)["epoch"].max().map(lambda epochs: due_epoch(share, epochs))
    return table[table["epoch"] <= table[trial].map(due)].sort_values("epoch").groupby(trial).last()


def _folds(trials: pd.DataFrame) -> NDArray[np.int64]:
    """(trials,): the number of the fold of each; an attack is one, the clean cells are dealt out."""
    attacks = sorted(trials.loc[trials["poison_rate"] > 0, "attack"].unique())
    numbers = {attack: i for i, attack in enumerate(attacks)}
    dealt = trials["cell"].rank(method="dense").astype(int) % max(1, len(attacks))
    poisoned = trials["poison_rate"] > 0
    return np.asarray(trials["attack"].map(numbers).where(poisoned, dealt).astype(int))


def _check(trials: pd.DataFrame, names: Sequence[str], folds: NDArray[np.int64]) -> None:
    problems = []
    if len(np.unique(folds)) < 2:
        problems.append("an early warning needs trials of at least two attacks")
    if trials["takes_hold"].nunique() < 2:
        problems.append("an early warning needs settings where the backdoor takes hold and settings where not")
    if not names:
        problems.append("no measure of these was taken so early in the training")
    if problems:
        raise InputError(problems)


def warning_pipeline() -> "Pipeline":
    """An unfitted early warning: missing values by the median, standardised, logistic regression."""
    from sklearn.impute import SimpleImputer  # here, because a second of imports is for those who need it
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(
        SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler(), LogisticRegression(max_iter=1000)
    )


def _out_of_fold(x: Floats, y: Floats, folds: NDArray[np.int64]) -> Floats:
    """(n,) the probability for each row of x (n, d), by a model of the other folds; the base rate where y is one."""
    found = np.empty(len(y))
    for fold in np.unique(folds):
        own, others = folds == fold, folds != fold
        if len(np.unique(y[others])) < 2:
            found[own] = y[others].mean()
        else:
            found[own] = warning_pipeline().fit(x[others], y[others]).predict_proba(x[own])[:, 1]
    return found


def _null(trials: pd.DataFrame, x: Floats, folds: NDArray[np.int64]) -> float:
    """The largest AUC of trainings on verdicts permuted among the cells of each rate."""
    cells = trials.groupby("cell")[["takes_hold", "poison_rate"]].first()
    place = cells.index.get_indexer(pd.Index(trials["cell"]))
    drawn = permuted_labels(cells["takes_hold"].to_numpy(float), cells["poison_rate"].to_numpy(float), PERMUTATIONS)
    found = [area_of(y[place], _out_of_fold(x, y[place], folds)) for y in drawn]
    return float(np.nanmax(found))


def _judged(
    predictions: pd.DataFrame, names: tuple[str, ...], share: float, folds: NDArray[np.int64], null: float
) -> EarlyWarning:
    y, p = predictions["takes_hold"].to_numpy(float), predictions["probability"].to_numpy(float)
    attacks = {int(fold): _attack_of(predictions[folds == fold]) for fold in np.unique(folds)}
    drawn = _resampled(predictions["cell"])
    areas = np.array([area_of(y[rows], p[rows]) for rows in drawn])
    errors = np.array([calibration_error(y[rows], p[rows]) for rows in drawn])
    sure = (p >= SURE) | (p <= 1 - SURE)
    (area_low, area_high), (error_low, error_high) = interval(areas), interval(errors)
    return EarlyWarning(
        predictions=predictions,
        measures=names,
        share=share,
        area=area_of(y, p),
        area_low=area_low,
        area_high=area_high,
        by_attack={attack: area_of(y[folds == fold], p[folds == fold]) for fold, attack in attacks.items()},
        calibration_error=calibration_error(y, p),
        calibration_low=error_low,
        calibration_high=error_high,
        null=null,
        decided=float(sure.mean()),
        right=float(((p > 0.5) == y.astype(bool))[sure].mean()) if sure.any() else float("nan"),
    )


def _attack_of(fold: pd.DataFrame) -> str:
    return str(fold.loc[fold["poison_rate"] > 0, "attack"].iloc[0])


def _resampled(cells: "pd.Series[int]") -> list[NDArray[np.int64]]:
    """The rows of as many cells, drawn with replacement, `DRAWS` times."""
    rows = [np.flatnonzero(cells == cell) for cell in cells.unique()]
    drawn = np.random.default_rng(0).integers(len(rows), size=(DRAWS, len(rows)))
    return [np.concatenate([rows[i] for i in one]) for one in drawn]


def area_of(y: Floats, p: Floats) -> float:
    """The area under the ROC curve of p (n,) for outcomes y (n,), 1 or 0, by ranks; NaN where all y are one number."""
    there, elsewhere = int(y.sum()), int(len(y) - y.sum())
    if not (there and elsewhere):
        return float("nan")
    return float((rankdata(p)[y == 1].sum() - there * (there + 1) / 2) / (there * elsewhere))


def calibration_error(y: Floats, p: Floats) -> float:
    """The expected calibration error: mean |mean outcome - mean probability| over `BINS` of equal numbers, weighted.

    Naeini, Cooper and Hauskrecht, "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI 2015, with
    bins by quantiles.

    Args:
        y: outcomes (n,), 1 or 0.
        p: probabilities (n,).
    """
    parts = np.array_split(np.argsort(p, kind="stable"), min(BINS, len(p)))
    return float(sum(len(part) * abs(y[part].mean() - p[part].mean()) for part in parts) / len(p))
