"""Names of a trial's metrics: those that other modules read, and the headline ones, which are logged to MLflow.

A trial has hundreds of numbers. A run in MLflow has the headline ones, with the epoch as step; all of them are in its
artifact TABLE. `analysis` and `sweeps` take the names they read from here.
"""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

TABLE = "metrics.csv"  # artifact of a run: a row a metric, a column an epoch

ACCURACY, ATTACK_SUCCESS, ROBUST_ACCURACY = "accuracy/clean", "attack_success", "accuracy/robust"
VALIDATION_ACCURACY, VALIDATION_SUCCESS = "accuracy/validation", "attack_success/validation"
CLEAN_COUNT, TRIGGERED_COUNT = "count/clean", "count/triggered"
SECONDS, UNDERTRAINED = "seconds/trial", "undertrained"
TRAIN_SECONDS, PREDICT_SECONDS = "seconds/train", "seconds/predict"  # of a user's own script
DEFENCE_SECONDS = "defence/seconds"  # of a training, with what others spent on an encoder that it shares
ALIAS = "raybd.alias"  # tag of a trial: names of its defence's settings, for instance "vibe:winner", a space between
TARGET = "raybd.target"  # tag of a trial with poison: its target class for people, "2 (bird)"
WARNING = "raybd.warning"  # tag of a trial that its early warning stopped: the probability that it takes hold
CLASSES = "raybd.classes"  # tag of a trial: the names of its classes by number, a JSON list, where they fit
HELD_OUT = "raybd.held_out"  # tag of a trial: "true" where its attack had no say in what a search chose

SIGNATURE, ISOTROPIC, DIRECTION = "mi/signature", "mi/signature_isotropic", "mi/signature/direction"
FRESH = "fresh_train"  # the group of images whose information is a headline
CLASS_INFORMATION = f"mi/st/{FRESH}"
S1, S_DEV = "stealth/s1", "stealth/s_dev"
DECODABILITY, SEMANTICS = "stealth/decodability", "stealth/semantics"
GAP = "smoothness/gap"  # GAP/VARIANT/sigma_S
SLOPE = "curve/slope"

MOST_PER_PATTERN = 4  # names that one pattern of HEADLINE stands for
MOST_OF_OTHERS = 12  # names of metrics that are not raybd's own
FAMILIES = (  # the first parts of raybd's own names
    *("accuracy", "attack_success", "beatrix", "count", "curve", "defence", "defender", "ibd_psc", "loss", "mi"),
    *(
        "neural_cleanse",
        "noise_votes",
        "pictures",
        "scale_up",
        "seconds",
        "smoothness",
        "stealth",
        "strip",
        "ted",
        UNDERTRAINED,
        "vibe",
    ),
)
HEADLINE: Mapping[str, tuple[str, ...]] = {  # by what measures them
    "accuracy": (
        *(ACCURACY, ATTACK_SUCCESS, ROBUST_ACCURACY, CLEAN_COUNT, TRIGGERED_COUNT, UNDERTRAINED),
        *(
            "loss/train",
            "loss/clean",
            "loss/triggered",
            VALIDATION_ACCURACY,
            VALIDATION_SUCCESS,
            SECONDS,
            TRAIN_SECONDS,
            "attack_success/*",
        ),
    ),
    "mutual_information": (
        *(SIGNATURE, f"{SIGNATURE}/error", f"{SIGNATURE}/s", DIRECTION, ISOTROPIC, f"{ISOTROPIC}/error"),
        *(f"mi/xt/{FRESH}", f"mi/ty/{FRESH}/lower", f"mi/ty/{FRESH}/upper", CLASS_INFORMATION),
    ),
    "stealthiness": (S1, f"{S1}/null", S_DEV, f"{S_DEV}/null", DECODABILITY, SEMANTICS),
    "smoothness": ("smoothness/clean/sigma_*", f"{GAP}/triggered/sigma_*"),
    "stealth": ("stealth/l2", "stealth/linf", "stealth/psnr", "stealth/ssim_reflect11"),
    "learning_curves": (
        *(SLOPE, "curve/theta", "curve/log_slope", "curve/secant", "curve/beta50", "curve/area", "curve/unique"),
        *("curve/epoch50", "curve/epoch50/clean", "accuracy/train", "accuracy/clean_model"),
    ),
    "defender": ("defender/*/*",),
    "detection": ("*/auroc", "*/null_auroc"),
    "vibe": (
        *("vibe/probe_accuracy", "vibe/first_right", "vibe/poison_kept", "vibe/poison_kept_count", "vibe/kappa"),
        *("vibe/nu", "vibe/relabelled", "vibe/removed", "vibe/e_steps", "vibe/flip_rate", "vibe/column_error"),
    ),
    "defences": (
        "defence/flagged",
        "defence/precision",
        "defence/recall",
        "defence/auroc",
        "defence/pruned",
        DEFENCE_SECONDS,
    ),
}


def headline(names: Iterable[str]) -> list[str]:
    """The headline metrics of `names`: those by HEADLINE, and the first few of metrics that are not raybd's own."""
    known = dict.fromkeys(names)
    chosen: dict[str, None] = {}
    for pattern in (pattern for patterns in HEADLINE.values() for pattern in patterns):
        if "*" in pattern:  # only these are worth a look at every name
            others = (name for name in known if name not in chosen and _matches(name, pattern))
            chosen |= dict.fromkeys(sorted(others)[:MOST_PER_PATTERN])
        elif pattern in known:
            chosen[pattern] = None
    foreign = [name for name in known if name.partition("/")[0] not in FAMILIES]
    return [*chosen, *foreign[:MOST_OF_OTHERS]]


def _matches(name: str, pattern: str) -> bool:
    """Whether each `*` of `pattern` stands for one part of `name`, or of one."""
    return name.count("/") == pattern.count("/") and fnmatchcase(name, pattern)
