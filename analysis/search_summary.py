"""The summary of a search: what it chose, whether that keeps the backdoors out, and every defence in a table."""

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import records
from analysis.defences import compare_defences, defence_figure, defence_table
from analysis.region_map import DefendedRegionMap
from analysis.robustness import Robustness
from analysis.text_table import align_columns
from raybd.errors import InputError
from raybd.utils.metric_names import ALIAS, HELD_OUT
from raybd.utils.summary_folder import SummaryFolder

Report = Mapping[str, Any]  # search.json


def summarise_search(name: str, tracking_uri: str, folder: SummaryFolder) -> tuple[str, list[Path]]:
    """Sentences, the Pareto front, and every defence against every attack; what was chosen is named in the store."""
    from raybd import tracking  # here, because it takes MLflow's seconds

    report = json.loads((folder / "search.json").read_text())
    runs = tracking.load_runs(name, tracking_uri)
    tags = names_of_trials(runs, report)
    tracking.tag_runs(tracking_uri, tags)
    asked = runs[runs["run_id"].isin(list(tags))].reset_index(drop=True)  # none of an earlier question under this name
    for tag in (ALIAS, HELD_OUT):
        asked[f"tags.{tag}"] = [tags[run].get(tag) for run in asked["run_id"]]
    known = {str(name).removeprefix("params.defence.") for name in asked if str(name).startswith("params.defence.")}
    defences = {name: dict.fromkeys(known) | settings for name, settings in report["settings"].items()}
    table = compare_defences(asked, defences)
    table.to_csv(folder / "defences.csv", index=False)
    pictures = folder.save(defence_figure(table, report["held_out"]), "defences")
    pictures += [*sorted(folder.path.glob("pareto*.png")), *sorted(folder.path.glob("importances_*.png"))]
    text = [*map(_wrapped, sentences(report, asked)), "", f"Pareto front (^: the winner)\n{front_table(report)}"]
    text += ["", "ACC / ASR %, mean ± deviation over seeds", defence_table(table, report["held_out"])]
    return "\n".join(text), [folder / "defences.csv", folder / "search.json", *pictures]


def names_of_trials(runs: pd.DataFrame, report: Report) -> dict[str, dict[str, str]]:
    """The tags of each run of the comparison, by its id: the names of its settings, and whether its attack was held
    out."""
    aliases: dict[str, list[str]] = {}
    for name, keys in report["keys"].items():
        alias = [full_name(report, name)] if name in report["named"] else []
        for key in keys:
            aliases.setdefault(key, []).extend(alias)
    found = runs[runs["tags.raybd.key"].isin(list(aliases))]
    rows = zip(found["run_id"], found["tags.raybd.key"], found["params.attack.name"], strict=True)
    return {
        run: {ALIAS: " ".join(aliases[key])} | ({HELD_OUT: "true"} if attack in report["held_out"] else {})
        for run, key, attack in rows
    }


def full_name(report: Report, name: str) -> str:
    """The name of a setting with that of its defence, "vibe:winner"."""
    return f"{report['settings'][name]['name']}:{name}"


def sentences(report: Report, runs: pd.DataFrame) -> list[str]:
    """What was found: by the search on the images set aside, and by the map's verdicts on the test images."""
    lines = [searched(report)]
    try:
        found = DefendedRegionMap.from_frame(records.canonical_frame(runs))
    except InputError as error:
        return [*lines, f"There is no map: {error}"]
    told: dict[str, list[str]] = {}  # one group of names a setting
    for name in report["named"]:
        told.setdefault(" ".join(report["keys"][name]), []).append(full_name(report, name))
    for group in told.values():
        if group[-1] in found.aliases:
            lines += compared(found.most_robust(defence=group[-1]), " = ".join(group))
    return lines


def compared(found: Robustness, name: str) -> list[str]:
    """How a named setting did: threats that are kept out of those that take hold, at what cost, and where it fails."""
    return [f"{name} is defended against {found.count()}.", f"  {found.cost}", f"  {found.failures}"]


def searched(report: Report) -> str:
    """How many candidates keep the limits, and whether one is better than the default."""
    tried = report["candidates"]
    whole = [one for one in tried if "error" not in one and "cut_short" not in one]
    if not whole:
        return f"None of {len(tried)} candidates ran on all attacks: the default stands for the winner."
    within = sum(one["feasible"] for one in whole)
    limits = " and ".join(f"{name} <= {limit:g}" for name, limit in report["limits"].items())
    kept = f"{within} of {len(tried)} candidates keep {limits} on the images set aside"
    first = min(one["number"] for one in tried)
    if (number := report["chosen"]["winner"]) == first:
        return f"{kept}; nothing beats the default, which is the winner."
    best = next(one for one in tried if one["number"] == number)
    beyond = {name: best["values"][name] - limit for name, limit in report["limits"].items()}
    over = ", ".join(f"{name} by {100 * value:.2f} points" for name, value in beyond.items() if value > 0)
    return f"{kept}; the winner is candidate {number}{f', which exceeds {over}: the least of all' if over else ''}."


def front_table(report: Report) -> str:
    """The best candidates among those that ran on all cases, and how many did not."""
    lines = [["candidate", *report["goals"], "seconds"]]
    winner, settings = report["chosen"].get("winner"), ""
    for one in report["candidates"]:
        if one["front"] or one["number"] == winner:
            mark = "^" if one["number"] == winner else ""
            goals = [f"{one['values'][goal]:.4f}" for goal in report["goals"]]
            lines.append([f"{one['number']}{mark}", *goals, f"{one['seconds']:.0f}"])
        if one["number"] == winner:
            listed = ", ".join(f"{name}={_short(value)}" for name, value in one["settings"].items())
            settings = _wrapped(f"the winner's settings: {listed or 'those of the default'}") + "\n"
    tried: Sequence[Report] = report["candidates"]
    failed, cut = (sum(name in one for one in tried) for name in ("error", "cut_short"))
    ended = f"{len(tried)} candidates, {failed} failed, {cut} cut short and not compared"
    return f"{align_columns(lines)}\n{settings}{ended}; the study: {report['storage']}"


def _wrapped(text: str) -> str:
    """`text` in lines of at most 80 characters, indented as it begins."""
    indent = text[: len(text) - len(text.lstrip())] + "  "
    return textwrap.fill(text, 80, subsequent_indent=indent, break_on_hyphens=False)


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
