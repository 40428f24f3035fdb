"""The report: one file, a text for every cell, nothing from outside, hostile names as text."""

import re
import shutil
import subprocess
from base64 import b64encode
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from analysis.region_map import DefendedRegionMap
from analysis.report import pictures_of, report, write_report
from analysis.runs import notable, run_table
from analysis.signal.observations import last_epochs
from analysis.svg import intervals
from raybd.errors import InputError

VOID = {"meta", "path", "rect", "circle", "line", "img"}
RATES = [0.0, 0.01, 0.02, 0.05, 0.1]
HOSTILE = "<script>alert('1')</script>\"&"


class Page(HTMLParser):
    """Tags, the text of every title in a cell, and whether each tag is closed in turn."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.attributes, self.cells = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if ("class", "cell") in attrs:
            self.cells.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-2:] == ["g", "title"] and self.cells:
            self.cells[-1] += data


def runs(attack="badnets", error=None):
    """Two widths, rates 0, 0.01, 0.1, three seeds; the wide network falls at 0.1; one cell has failed."""
    rows = []
    for width in ("0.5", "1"):
        for rate in ("0.0", "0.01", "0.1"):
            for seed in range(3):
                taken = 0.9 if (width, rate) == ("1", "0.1") else 0.01
                failed = (width, rate) == ("0.5", "0.1")
                rows.append(
                    {
                        "run_id": f"{width}-{rate}-{seed}",
                        "status": "FAILED" if failed else "FINISHED",
                        "start_time": pd.Timestamp(0, tz="UTC"),
                        "tags.raybd.version": "0.1.0",
                        "tags.raybd.commit": "abc",
                        "tags.raybd.error": error if failed else None,
                        "params.seed": str(seed),
                        "params.attack.name": attack,
                        "params.poison_rate": rate,
                        "params.model.width": width,
                        "metrics.accuracy/clean": np.nan if failed else 0.9,
                        "metrics.attack_success": np.nan if failed else taken + 0.001 * seed,
                        "metrics.stealth/s1": 5.0 if taken > 0.5 else 1.0,
                    }
                )
    return pd.DataFrame(rows)


def test_every_cell_has_its_words():
    page = Page(report(runs(error="boom"), "ib"))
    assert page.open == []
    assert len(page.cells) == 6
    assert "backdoored at attack=badnets, poison_rate=0.1, width=1: attack success 90.1% (" in " ".join(page.cells)
    assert "attack success is 89.0 points (" in " ".join(page.cells)
    assert "unmeasured at attack=badnets, poison_rate=0.1, width=0.5: no finished trial: 3 failed" in " ".join(
        page.cells
    )


def test_it_needs_nothing_from_outside():
    text = report(runs(), "ib")
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    names = {name for name, _ in page.attributes}
    assert not {"src", "xlink:href"} & names
    links = {value for name, value in page.attributes if name == "href"}
    assert links
    assert links <= {f"#{value}" for name, value in page.attributes if name == "id"}
    assert not [name for name in names if name.startswith("on")]
    assert "http" not in text
    assert set(re.findall(r"url\((.*?)\)", text)) <= {
        "#defended",
        "#kept_out",
        "#backdoored",
        "#uncertain",
        "#unmeasured",
    }


def test_pictures_of_the_runs_to_look_at_are_in_the_page():
    """Those of other runs are not, and nothing is fetched."""
    drawn = {"1-0.1-2": {"tsne": b"one", "grad_cam": b"two"}, "0.5-0-0": {"tsne": b"three"}}
    page = Page(report(runs(), "ib", pictures=drawn))
    sources = [value for name, value in page.attributes if name == "src"]
    assert sources == [f"data:image/png;base64,{b64encode(content).decode()}" for content in (b"one", b"two")]
    assert page.open == []
    assert pictures_of(runs(), "sqlite:////nowhere/at/all.db") == {}  # nobody asked for pictures: no store is read


def test_hostile_names_stay_text():
    page = Page(report(runs(attack=HOSTILE, error=HOSTILE), HOSTILE))
    assert "script" not in page.tags
    assert page.open == []
    assert f"attack={HOSTILE}" in " ".join(page.cells)


def test_it_names_runs_with_their_settings_and_versions():
    text = report(runs(error="boom"), "ib")
    assert re.search('<a href="#run-1-0.1-2">badnets at 10%, width=1, seed 2</a></td><td>.*?</td><td>90.2%</td>', text)
    assert "raybd 0.1.0; commit abc" in text
    assert "failed: boom" in text
    assert "model.width = 1\n" in text
    found = notable(DefendedRegionMap.from_frame(_canonical(runs(error="boom"))))
    assert found[0] == ("1-0.1-2", "the backdoor took at this low a rate")  # its highest seed
    assert ("0.5-0.01-2", "defended at this high a rate: its worst seed") in found
    assert [why for _, why in found if why.startswith("failed")] == ["failed: boom"] * 3


def _canonical(frame):
    from analysis.records import canonical_frame

    return canonical_frame(frame)


def test_the_boundary_is_drawn_with_open_ends():
    rows = [("a", 0.01, 0.02, 0.05), ("b", 0.01, 0.1, np.inf), ("c", np.nan, np.nan, 0.01)]
    drawn = intervals(rows, "poison rate", RATES)
    titles = re.findall("<title>(.*?)</title>", drawn)
    assert titles == [
        "a: largest defended 0.02, from 0.01 to 0.05",
        "b: largest defended 0.1, from 0.01 to open",
        "c: largest defended not known, from not known to 0.01",
    ]
    assert (drawn.count("<circle"), drawn.count(" l8 6 l-8 6 z")) == (2, 1)
    assert re.findall(">([0-9.]+)</text>", drawn) == ["0.01", "0.02", "0.05", "0.1"]
    assert ">poison rate (logarithmic)</text>" in drawn
    assert intervals([("a", np.nan, np.nan, np.inf)], "poison rate", RATES) == ""


def test_the_report_says_what_measures_foretell():
    frame = runs()
    histories = pd.concat([last_epochs(frame).assign(epoch=epoch) for epoch in (1, 2)])
    text = report(frame, "ib", histories=histories)
    assert "Nothing can be told of signals: at each poison rate every setting is on one side of the verdict." in text
    assert ">stealth/s1<" in text
    assert "Nothing can be foretold: measures were taken at one epoch alone." in report(frame, "ib")
    undecided = frame[frame["params.poison_rate"] == "0.0"]
    assert "No measure was logged at settings with a sure verdict." in report(undecided, "ib")


def test_runs_are_listed_in_order_of_their_settings():
    table = run_table(runs(error="boom").sample(frac=1, random_state=0))
    assert table["poison_rate"].tolist() == [0.0] * 6 + [0.01] * 6 + [0.1] * 6
    assert table["seed"].tolist()[:3] == [0, 1, 2]
    assert table["error"].tolist()[-6:] == ["boom"] * 3 + [""] * 3


def test_it_is_written_where_asked(tmp_path, monkeypatch):
    monkeypatch.setattr("raybd.tracking.load_runs", lambda *_, **__: runs())
    monkeypatch.setattr("raybd.tracking.load_histories", lambda *_: last_epochs(runs()))
    path = write_report("ib", tmp_path / "r.html")
    assert path.read_text().startswith("<!DOCTYPE html>")
    with pytest.raises(InputError, match="cannot be written"):
        write_report("ib", tmp_path / "no" / "r.html")
    monkeypatch.setattr("raybd.tracking.load_runs", lambda *_, **__: runs()[:0])
    with pytest.raises(InputError, match="no trial is logged in 'ib'"):
        write_report("ib", tmp_path / "r.html")


@pytest.mark.parametrize("hostile", [False, True])
def test_a_browser_shows_every_cell(tmp_path: Path, hostile: bool):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("NO BROWSER ON PATH (chromium, google-chrome): the report was not looked at by one")
    page = tmp_path / "r.html"
    page.write_text(report(runs(attack=HOSTILE if hostile else "badnets"), "ib"))
    seen, shot = _look(browser, page, "--dump-dom"), tmp_path / "r.png"
    assert seen.stdout.count('<g class="cell"><title>') == 6
    assert "<script" not in seen.stdout
    _look(browser, page, f"--screenshot={shot}", "--window-size=1200,1600")
    with Image.open(shot) as picture:
        assert picture.size == (1200, 1600)
        drawn = picture.convert("L").point(lambda level: 255 * (level < 250))
        left, upper, right, lower = drawn.getbbox() or (0, 0, 0, 0)
        assert right - left > 600, "nothing is drawn across the page"
        assert lower - upper > 1000, "nothing is drawn down the page"


def _look(browser: str, page: Path, *wanted: str) -> subprocess.CompletedProcess[str]:
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={page.parent}/profile"]
    flags += ["--disable-background-networking", "--no-first-run", "--enable-logging=stderr"]
    done = subprocess.run(
        [browser, *flags, *wanted, page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    assert ":CONSOLE" not in done.stderr  # where the browser tells of errors on a page
    return done
