"""Convex learners under a backdoor: exact learning curves, slopes and paths (arXiv 2106.07214)."""

from raybd.convex.learner import Learner, LearningCurve, ModelPath
from raybd.convex.logistic import Logistic
from raybd.convex.ridge import Ridge
from raybd.convex.slope import Slope, slope_exact, theta
from raybd.convex.svm import RBFSVM, LinearSVM
from raybd.convex.task import BinaryTask

LEARNERS: dict[str, type[Learner]] = {"svm": LinearSVM, "svm_rbf": RBFSVM, "logistic": Logistic, "ridge": Ridge}

__all__ = [
    "LEARNERS",
    "RBFSVM",
    "BinaryTask",
    "Learner",
    "LearningCurve",
    "LinearSVM",
    "Logistic",
    "ModelPath",
    "Ridge",
    "Slope",
    "slope_exact",
    "theta",
]
