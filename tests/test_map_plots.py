"""Slices and pictures of the map."""

import io

import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread

from analysis import DefendedRegionMap
from analysis.plots import plot_map
from analysis.style import STYLES
from raybd.errors import InputError

DECAYS, RATES = (0.001, 0.01, 0.1), (0.0, 0.05)


def rows(success, accuracy=0.9, seeds=3, **parameters):
    parameters = {name.replace("__", "."): value for name, value in parameters.items()}
    base = {"attack.name": "badnets", "data": "digits", "model.name": "cnn"} | parameters
    return [base | {"seed": s, "clean_accuracy": accuracy, "attack_success": success} for s in range(seeds)]


@pytest.fixture
def plane():
    """Two rates up, three decays across; every cell has an attack success of its own.

    At rate 0: 0.01 defended, 0.02 defended, 0.03 one seed. At 0.05: 0.9 backdoored, 0.04 defended, none measured.
    """
    trials = [
        *rows(0.01, poison_rate=0.0, train__weight_decay=0.001),
        *rows(0.02, poison_rate=0.0, train__weight_decay=0.01),
        *rows(0.03, poison_rate=0.0, train__weight_decay=0.1, seeds=1),
        *rows(0.9, poison_rate=0.05, train__weight_decay=0.001),
        *rows(0.04, poison_rate=0.05, train__weight_decay=0.01, accuracy=0.89),
    ]
    return DefendedRegionMap.from_frame(pd.DataFrame(trials))


STATUSES = [["defended", "defended", "uncertain"], ["backdoored", "defended", "unmeasured"]]
TEXTS = [
    ["ASR 1.0%\nACC 90.0%", "ASR 2.0%\nACC 90.0%", "ASR 3.0%\nACC 90.0%"],
    ["ASR 90.0%\nACC 90.0%", "ASR 4.0%\nACC 89.0%", "not\nmeasured"],
]


def test_a_slice_has_its_verdicts_at_y_then_x(plane):
    found = plane.slice(x="weight_decay", y="poison_rate", attack="badnets")
    assert (tuple(found.x), tuple(found.y)) == (DECAYS, RATES)
    assert [[v.status for v in row] for row in found.verdicts] == STATUSES
    turned = plane.slice(x="poison_rate", y="weight_decay")
    assert [[v.status for v in row] for row in turned.verdicts] == [list(c) for c in zip(*STATUSES, strict=True)]


def test_a_slice_as_a_frame(plane):
    frame = plane.slice(x="train.weight_decay", y="poison_rate").to_frame().set_index(["weight_decay", "poison_rate"])
    assert len(frame) == 6
    assert frame.loc[(0.001, 0.05), "status"] == "backdoored"
    assert frame.loc[(0.1, 0.0), ["status", "seeds", "attack_success"]].tolist() == ["uncertain", 1, 0.03]


def test_a_slice_needs_two_free_axes(plane):
    with pytest.raises(InputError, match="two axes, and not fixed"):
        plane.slice(x="poison_rate", y="poison_rate")
    with pytest.raises(InputError, match="two axes, and not fixed"):
        plane.slice(x="poison_rate", y="weight_decay", **{"train.weight_decay": 0.1})


def drawn(ax):
    """What stands in each cell of a drawn slice: its text, the colour and the hatch behind it."""
    texts = {t.get_position(): t.get_text() for t in ax.texts}
    boxes = {(p.get_x() + 0.5, p.get_y() + 0.5): p for p in ax.patches if p.get_fill()}
    assert texts.keys() == boxes.keys()
    return {at: (texts[at], to_hex(boxes[at].get_facecolor()), boxes[at].get_hatch()) for at in texts}


def expected():
    looks = {(x, y): STYLES[status] for y, row in enumerate(STATUSES) for x, status in enumerate(row)}
    return {(x, y): (TEXTS[y][x], look.face, look.hatch) for (x, y), look in looks.items()}


def test_a_drawn_slice_shows_each_cell_where_it_belongs(plane):
    ax = plane.slice(x="weight_decay", y="poison_rate").plot()
    assert drawn(ax) == expected()
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0.001", "0.01", "0.1"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["0", "0.05"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("weight_decay", "poison_rate")
    assert ax.get_ylim()[0] < ax.get_ylim()[1]  # the poison rate rises upwards
    assert [t.get_text() for t in ax.get_legend().get_texts()] == list(STYLES)


def test_a_slice_draws_into_the_axes_it_is_given(plane):
    ax = Figure().add_subplot()
    assert plane.slice(x="weight_decay", y="poison_rate").plot(ax) is ax


def test_statuses_differ_without_colour():
    assert len({look.hatch for look in STYLES.values()}) == len(STYLES) == 5

    def light(colour):
        red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (red, green, blue)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for look in STYLES.values():  # WCAG 2.1: at least 4.5 between text and ground
        bright, dark = sorted([light(look.face), light(look.text)], reverse=True)
        assert (bright + 0.05) / (dark + 0.05) >= 4.5


def whole_map(**more):
    return DefendedRegionMap.from_frame(
        pd.DataFrame(
            row
            for i, attack in enumerate(("badnets", "blend"))
            for j, width in enumerate((0.5, 1, 2))
            for rate in RATES
            for decay in DECAYS
            for row in rows(
                (0.1 * i + 0.01 * j + 0.2 * decay) if rate else 0.0,
                attack__name=attack,
                poison_rate=rate,
                model__width=width,
                train__weight_decay=decay,
                **more,
            )
        )
    )


def png(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    buffer.seek(0)
    return imread(buffer)


def test_the_whole_map_has_a_row_an_attack_and_a_column_a_width():
    figure = plot_map(whole_map())
    assert [ax.get_title(loc="left") for ax in figure.axes] == [
        f"attack={attack}, width={width}" for attack in ("badnets", "blend") for width in ("0.5", "1", "2")
    ]
    texts = [drawn(ax)[2, 1][0] for ax in figure.axes]  # decay 0.1 at rate 0.05: 0.1 i + 0.01 j + 0.02
    assert texts == [f"ASR {n}.0%\nACC 90.0%" for n in (2, 3, 4, 12, 13, 14)]
    said = "\n".join(text.get_text() for text in figure.texts)
    assert "Where does the backdoor not take hold?" in said
    assert "digits, cnn: 108 trials, 3 seeds a cell" in said  # 2 x 3 x 2 x 3 cells
    assert "attack success (ASR) ≤ 10 points over the clean twins', clean accuracy (ACC) ≥ 88.0% (2 points" in said
    picture = png(figure)
    assert abs(picture.shape[1] - 1200) <= 1
    assert picture[..., :3].std() > 0.05


def test_further_axes_are_pooled_and_said():
    trials = [
        row
        for epochs, success in ((1, 0.01), (9, 0.9))
        for width in (1, 2)
        for decay in DECAYS
        for rate in RATES
        for row in rows(
            success * (rate > 0),
            poison_rate=rate,
            train__weight_decay=decay,
            train__epochs=epochs,
            model__width=width,
        )
    ]
    figure = plot_map(DefendedRegionMap.from_frame(pd.DataFrame(trials)))
    assert [ax.get_title(loc="left") for ax in figure.axes] == [f"attack=badnets, weight_decay={d}" for d in DECAYS]
    assert figure.axes[0].get_xlabel() == "epochs"
    assert "pooled over width: defended where every value is" in figure.texts[1].get_text()


def test_twins_under_attack_none_give_no_row_of_their_own():
    trials = rows(0.0, attack__name="none", poison_rate=0.0, train__weight_decay=0.1)
    trials += rows(0.0, poison_rate=0.1, train__weight_decay=0.1) + rows(0.0, poison_rate=0.1, train__weight_decay=0.2)
    (ax,) = plot_map(DefendedRegionMap.from_frame(pd.DataFrame(trials))).axes
    assert [t.get_text() for t in ax.get_yticklabels()] == ["0.1"]
    assert ax.get_title(loc="left") == "attack=badnets"


def test_a_map_without_a_complexity_axis_has_the_attacks_across(plane):
    trials = rows(0.0, poison_rate=0.0) + rows(0.9, poison_rate=0.1) + rows(0.0, attack__name="blend", poison_rate=0.1)
    (ax,) = plot_map(DefendedRegionMap.from_frame(pd.DataFrame(trials))).axes
    assert [t.get_text() for t in ax.get_xticklabels()] == ["badnets", "blend"]
    only_clean = DefendedRegionMap.from_frame(pd.DataFrame(rows(0.0, attack__name="none", poison_rate=0.0)))
    assert len(plot_map(only_clean).axes) == 1


def test_the_frame_has_one_row_a_cell(plane):
    frame = plane.to_frame()
    assert list(frame) == [
        "poison_rate",
        "weight_decay",
        *("status", "probability", "seeds"),
        *("clean_accuracy", "clean_accuracy_low", "clean_accuracy_high"),
        *("attack_success", "attack_success_low", "attack_success_high"),
        *("accuracy_loss", "accuracy_loss_low", "accuracy_loss_high"),
        *("attack_success_excess", "attack_success_excess_low", "attack_success_excess_high"),
        "failures",
    ]
    assert frame["status"].tolist() == ["defended", "defended", "uncertain", "backdoored", "defended"]


def test_settings_of_one_attack_beside_another_attack_are_drawn():
    """A panel of a setting that the other attack does not have is of unmeasured cells, and no reason to fail."""
    trials = [
        *rows(0.0, poison_rate=0.0),
        *rows(0.1, poison_rate=0.1, attack__size=2, attack__position="top_left"),
        *rows(0.1, poison_rate=0.1, attack__size=3, attack__position="bottom_right"),
        *rows(0.1, poison_rate=0.1, **{"attack.name": "blended"}),
    ]
    found = DefendedRegionMap.from_frame(pd.DataFrame(trials))
    plot_map(found).canvas.draw()
    with pytest.raises(InputError, match="nothing was measured there: at size=2, attack=blended was not"):
        found.slice("position", "poison_rate", attack="blended", size=2)
