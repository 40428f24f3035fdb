"""What `raybd resist` says of what it found: no number without its interval, no proposal that was not verified."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from analysis.resist.changes import Change
from analysis.resist.edge import Edge
from analysis.resist.result import ResistResult
from analysis.resist.trainings import Judged
from analysis.verdict import Estimate

EDGE = Edge(
    attack="badnets",
    kind="edge",
    rate=0.02,
    low=0.015,
    high=0.026,
    lowest=0.002,
    highest=0.3,
    trainings=40,
    judged={2: Judged(2, 3, Estimate(0.0, -0.01, 0.02), False), 300: Judged(300, 3, Estimate(0.9, 0.8, 0.95), True)},
)
CHANGE = Change(
    knobs=(("decay", 0.05), ("epochs", 20)),
    changed=("decay",),
    size=0.3,
    verified=True,
    excess=Estimate(0.03, 0.01, 0.06),
    worst="badnets at 0.02",
    accuracy_loss=Estimate(0.012, 0.004, 0.02),
    seconds=1.0,
    seeds=5,
)
RESULT = ResistResult(
    edges=[EDGE],
    change=CHANGE,
    targets=[0.02],
    knobs_tried=6,
    failures={},
    trainings=60,
    limit=0.1,
    max_accuracy_loss=0.05,
)


@pytest.mark.parametrize(
    ("edge", "said"),
    [
        (EDGE, "does not take hold up to about 2% poison (90 % interval from 1.5% to 2.6%; tried: 0.2% to 30%"),
        (replace(EDGE, low=0.0), "interval from below all rates tried to 2.6%"),
        (replace(EDGE, high=math.inf), "interval from 1.5% to above all rates tried"),
        (replace(EDGE, kind="always", rate=math.nan), "takes hold at every rate tried, 0.2% to 30% poison"),
        (replace(EDGE, kind="never", judged={2: EDGE.judged[2]}), "takes hold at none of the rates tried, 0.2% to 30%"),
        (
            replace(EDGE, kind="never", judged={2: replace(EDGE.judged[2], takes_hold=None)}),
            "though not every rate is decided by its seeds",
        ),
        (replace(EDGE, kind="unknown", note="the trainings failed"), "nothing can be said, since the trainings failed"),
    ],
)
def test_each_kind_of_edge_has_its_sentence(edge: Edge, said: str) -> None:
    assert said in replace(RESULT, edges=[edge]).sentences()[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            CHANGE,
            "The cheapest change found that holds against every attack at 2% poison: decay=0.05; it costs 1.2 points",
        ),
        (replace(CHANGE, changed=()), "As it stands the training holds against every attack at 2% poison"),
        (
            replace(CHANGE, verified=False, excess=Estimate(0.3, 0.2, 0.4)),
            "lets badnets at 0.02 poison in (excess 30.0 points (20.0 to 40.0))",
        ),
        (
            replace(CHANGE, verified=False, accuracy_loss=Estimate(0.2, 0.1, 0.3)),
            "keeps them out, but loses more accuracy than it may; it costs 20.0 points (10.0 to 30.0)",
        ),
        (replace(CHANGE, verified=False), "but its seeds do not make that sure"),
    ],
)
def test_a_change_is_proposed_only_where_it_was_verified(change: Change, said: str) -> None:
    text = replace(RESULT, change=change).sentences()[-1]
    assert said in text
    proposed = change.verified and bool(change.changed)
    assert text.startswith("The cheapest change found") == proposed
    assert ("No change of the knobs was found" in text) == (not change.verified)


def test_tables_fit_a_terminal_and_are_files_too(tmp_path: Path) -> None:
    failing = replace(RESULT, failures={f"badnets 0.1 seed={k}": "ScriptError: bad\nmore" for k in range(5)})
    text, files = failing.text(tmp_path)
    assert max(map(len, text.splitlines())) <= 80
    assert "5 trainings failed: badnets 0.1 seed=0: ScriptError: bad;" in " ".join(text.split())
    assert [file.name for file in files] == ["edges.csv", "rates.csv"]
    assert all(file.exists() for file in files)
    frame = RESULT.to_frame()
    assert frame["poison_rate"].tolist() == pytest.approx([0.002, 0.3])
    assert frame["takes_hold"].tolist() == ["no", "yes"]
    assert "badnets" in RESULT._repr_html_()
