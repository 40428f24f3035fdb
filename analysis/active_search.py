"""Where to measure next: the cells of a grid whose verdict is least sure, in batches.

The surfaces through what is measured (logits of attack success and of clean accuracy) say of every cell how far it is
from both thresholds and how sure that is. Proposed are cells with the largest straddle, 1.645 s - |m - t|, for its cost
(Bryan et al., Active Learning for Identifying Function Threshold Boundaries, NIPS 2005, section 3.2). After each one of
a batch the surfaces are told what they expect there, their own mean (the "believer" of Ginsbourger, Le Riche &
Carraro, Kriging is well-suited to parallelize optimization, 2010), so that the next is elsewhere.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit

from analysis.cells import Cell, Rule
from analysis.interpolate import EXTRA, NoSurfaceError, Patch, through
from analysis.statistics import Z
from analysis.values import Value, is_number, plain, scale
from raybd.errors import InputError

Floats = NDArray[np.float64]
Group = tuple[Hashable, ...]
PLUGINS = ("attack.", "defence.", "metrics.")  # their settings part groups, whatever they are
COSTS = ("train.epochs", "model.width")  # what a training's time grows with


@dataclass(frozen=True)
class Site:
    """A cell that could be measured."""

    group: Group  # what no number tells apart: attack, defence, ...
    place: tuple[float, ...]  # its value on each axis


class Grid:
    """The cells that could be measured.

    Args:
        settings: the parameters of each by their full names, as trials log them.

    Attributes:
        axes: the numbers that vary, by full name, with their values in order.
        scales: log or linear, of each axis.
        names: what else varies, by full name: the values of a group.
        costs: of each site, in the order given: epochs times width.

    Raises:
        InputError: no number varies.
    """

    def __init__(self, settings: Sequence[Mapping[str, Value]]) -> None:
        names = sorted({n for one in settings for n in one if n != "seed"})
        values = {n: {plain(one.get(n)) for one in settings} for n in names}
        varying = [n for n in names if len(values[n]) > 1]
        numbers = [n for n in varying if all(map(is_number, values[n])) and not n.startswith(PLUGINS)]
        if not numbers:
            raise InputError("no axis of numbers: a boundary needs one with two values (poison rate, width, ...)")
        self.axes = {n: sorted(float(str(v)) for v in values[n]) for n in numbers}
        self.scales = {n: "log" if n == "poison_rate" else scale(self.axes[n]) for n in numbers}
        self.names = [n for n in varying if n not in numbers and not _told(n, settings)]
        self.costs = {self.site(one): np.prod([float(str(one.get(n, 1))) for n in COSTS]).item() for one in settings}

    @property
    def groups(self) -> list[Group]:
        """Each group once."""
        return list(dict.fromkeys(site.group for site in self.costs))

    def site(self, setting: Mapping[str, Value]) -> Site:
        """Where a setting is."""
        place = tuple(float(str(setting[n])) for n in self.axes)
        return Site(tuple(plain(setting.get(n)) for n in self.names), place)

    def settings(self) -> list[dict[str, Value]]:
        """Of every site what tells it from the others; a grid of these has the same sites."""
        return [self.setting(site) for site in self.costs]

    def setting(self, site: Site) -> dict[str, Value]:
        """What tells a site from the others."""
        return dict(zip(self.names, site.group, strict=True)) | dict(zip(self.axes, site.place, strict=True))

    def coordinates(self, places: Iterable[Sequence[float]]) -> Floats:
        """(m, d) places on the axes' scales."""
        points = np.array(list(places), dtype=float).reshape(-1, len(self.axes))
        log = np.array([found == "log" for found in self.scales.values()])
        points[:, log] = np.log10(points[:, log])
        return points

    def design(self) -> list[Site]:
        """What to measure before anything is known: in each group the corners and the middle."""
        corners = list(product(*[(values[0], values[-1]) for values in self.axes.values()]))
        middle = tuple(values[len(values) // 2] for values in self.axes.values())
        wanted = [Site(group, place) for group in self.groups for place in dict.fromkeys([*corners, middle])]
        return [site for site in wanted if site in self.costs]

    def patches(self, cells: Sequence[Cell], rule: Rule) -> dict[Group, Patch]:
        """The surfaces of each group that has cells enough."""
        found = {}
        for group in self.groups:
            usable = [c for c in cells if c.seeds and c.poisoned and self.site(c.setting).group == group]
            usable = [c for c in usable if self.site(c.setting) in self.costs and not np.isnan(c.attack_success).any()]
            spanned = all(len({c.setting[n] for c in usable}) > 1 for n in self.axes)
            if spanned and len(usable) >= len(self.axes) + EXTRA:
                try:
                    found[group] = through(usable, self.scales, rule)
                except NoSurfaceError:
                    continue  # its seeds never finished twice in a cell: there is no band
        return {group: patch for group, patch in found.items() if not np.isnan(patch.floor)}


def _told(name: str, settings: Sequence[Mapping[str, Value]]) -> bool:
    """Whether a setting of a plugin is the same wherever the plugin is: its name then says it."""
    owner = f"{name.partition('.')[0]}.name"
    seen: dict[Value, set[Value]] = {}
    for one in settings:
        seen.setdefault(plain(one.get(owner)), set()).add(plain(one.get(name)))
    return name != owner and all(len(values) == 1 for values in seen.values())


class Belief:
    """What a group's surfaces say of its sites, and what they will when the cells chosen so far are measured.

    Args:
        patch: the surfaces.
        points: (m, d) coordinates of the sites.
        cost: (m,) of measuring each, in any unit.
        seeds: how many are run at once.
    """

    def __init__(self, patch: Patch, points: Floats, cost: Floats, seeds: int) -> None:
        self.cost = cost
        floor = np.clip(patch.floor, 0, 1)
        room = [surface.predict(points)[0] for surface in patch.surfaces]
        self.room = np.stack([logit(patch.rule.max_attack_success) - room[0], room[1] - logit(floor)])
        self.covariance = np.stack([surface.covariance(points) for surface in patch.surfaces])
        self.noise = np.array([patch.success.spread, patch.accuracy.spread]) ** 2 / seeds

    def straddle(self) -> Floats:
        """(m,) logits by which the 90 % band reaches over a threshold; negative where the verdict is sure.

        The larger of the two, but where one rate is surely beyond its threshold the other does not matter.
        """
        reach = Z * np.sqrt(np.maximum(np.diagonal(self.covariance, axis1=1, axis2=2), 0))
        lost = (self.room < -reach).any(0)
        return np.where(lost, -np.inf, (reach - np.abs(self.room)).max(0))

    def scores(self) -> Floats:
        """(m,) straddle for its cost; 0 where the verdict is sure."""
        found: Floats = np.maximum(self.straddle(), 0) / self.cost
        return found

    def expect(self, site: int) -> None:
        """Take for measured at `site` what is expected there: the means stay, the covariances shrink.

        With k the column of the site and r the noise: C - k k' / (k_site + r) (Rasmussen & Williams, eq. 2.24).
        """
        column = self.covariance[:, :, site]
        total = column[:, site] + self.noise
        self.covariance = self.covariance - column[:, :, None] * column[:, None, :] / total[:, None, None]


def propose(
    grid: Grid, cells: Sequence[Cell], asked: Mapping[Site, int], rule: Rule, *, batch: int, seeds: int, most_seeds: int
) -> list[Site]:
    """At most `batch` sites to run `seeds` more seeds at, best first; none if every verdict is sure.

    A site that was asked for is asked again only if its seeds disagree, up to `most_seeds`: one whose trials fail is
    not. A group without surfaces (its trials failed) gives the site that is farthest from those asked.

    Args:
        grid: what could be measured.
        cells: what has been.
        asked: how many seeds have been asked for at each site, finished or failed.
        rule: the thresholds.
        batch: how many sites.
        seeds: how many seeds each will get.
        most_seeds: how many seeds a site may have.
    """
    mixed = {grid.site(c.setting) for c in cells if c.poisoned and 0 < c.defended < len(c.seeds)}
    again = {site for site in mixed if asked.get(site, 0) + seeds <= most_seeds}
    free = [site for site in grid.costs if site in again or not asked.get(site)]
    by_group = {group: [site for site in free if site.group == group] for group in grid.groups}
    patches = grid.patches(cells, rule)
    lost = [_farthest(grid, by_group[g], asked) for g in grid.groups if g not in patches and by_group[g]]
    beliefs = {}
    for group, patch in patches.items():
        sites = by_group[group]
        if sites:
            points = grid.coordinates(site.place for site in sites)
            beliefs[group] = Belief(patch, points, np.array([grid.costs[s] for s in sites]), seeds)
    return (lost + _best(beliefs, by_group, batch))[:batch]


def _best(beliefs: Mapping[Group, Belief], sites: Mapping[Group, list[Site]], batch: int) -> list[Site]:
    """One after the other, each as if those before it had been measured."""
    chosen: list[Site] = []
    while beliefs and len(chosen) < batch:
        scores = {group: belief.scores() for group, belief in beliefs.items()}
        for group, found in scores.items():
            found[[sites[group].index(site) for site in chosen if site.group == group]] = 0
        group = max(scores, key=lambda one: scores[one].max())
        at = int(scores[group].argmax())
        if scores[group][at] <= 0:
            break
        chosen.append(sites[group][at])
        beliefs[group].expect(at)
    return chosen


def _farthest(grid: Grid, sites: Sequence[Site], asked: Mapping[Site, int]) -> Site:
    """Of `sites` the one farthest from those of its group that were asked for, in widths of the axes."""
    known = [site.place for site in asked if site.group == sites[0].group]
    if not known:
        return sites[0]
    points, others = grid.coordinates(site.place for site in sites), grid.coordinates(known)
    ends = grid.coordinates([[values[0] for values in grid.axes.values()], [v[-1] for v in grid.axes.values()]])
    away = ((points[:, None] - others[None]) / (ends[1] - ends[0])) ** 2
    return sites[int(away.sum(-1).min(1).argmax())]
