"""SweepStatus: progress of a sweep's trials, and whether its driver is alive, from the tracking store alone."""

import json
import logging
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from raybd.tracking.artifact_files import read_artifact
from raybd.tracking.client import absolute_uri, one_line
from raybd.tracking.reader import Reader, find_sweeps
from raybd.tracking.runs import ALIVE, DRIVER, PLAN, PLANNED
from raybd.utils.metric_names import WARNING
from raybd.utils.process_name import ProcessName

log = logging.getLogger(__name__)
SILENT = 20.0  # seconds without a heartbeat after which a driver counts as silent; it sends one every 5


@dataclass(frozen=True)
class RunningTrial:
    """A trial that has started and not ended."""

    label: str
    run_id: str
    silent: float  # seconds since it last logged


@dataclass(frozen=True)
class SweepStatus:
    """Status of a sweep: numbers of its trials, each counted once whatever its attempts, and its driver's state."""

    name: str
    planned: int | None  # by the driver started last; None: no driver, or a search is still choosing trials
    finished: int
    failed: int  # and finished at no other attempt
    running: list[RunningTrial]
    stopped: int  # by their early warning
    driver: str  # alive, dead, silent, ended, or none
    driver_seen: float | None  # seconds since its last heartbeat

    @property
    def left(self) -> int | None:
        """The number of trials that have not started or were interrupted."""
        if self.planned is None:
            return None
        return max(0, self.planned - self.finished - self.failed - self.stopped - len(self.running))

    def __str__(self) -> str:
        planned = "an unknown number of" if self.planned is None else f"{self.planned}"
        left = "" if self.left is None else f", {self.left} left"
        stopped = f", {self.stopped} stopped on their early warning" if self.stopped else ""
        lines = [
            f"{self.name}: {self.finished} of {planned} trials finished, {self.failed} failed, "
            f"{len(self.running)} running{stopped}{left}",
            f"driver: {self.driver}"
            + ("" if self.driver_seen is None else f", last seen {self.driver_seen:.0f} s ago"),
        ]
        return "\n".join(
            lines + [f"running, logged {r.silent:.0f} s ago: {r.label} [{r.run_id}]" for r in self.running]
        )


def status(name: str, tracking_uri: str | None = None) -> SweepStatus:
    """The status of the sweep `name`.

    Ages are differences between this machine's clock and those of the machines that logged.

    Raises:
        InputError: the store cannot be reached or has no such sweep.
    """
    reader, known = find_sweeps([name], tracking_uri)
    parent = next(iter(reader.runs(known[name], "sweep")), None)
    tags = parent.data.tags if parent is not None else {}
    planned = _planned(absolute_uri(tracking_uri), parent) if tags.get(PLANNED) else None
    attempts: dict[str, list[Any]] = defaultdict(list)
    for run in reader.runs(known[name], "trial"):
        key = run.data.tags.get("raybd.key", run.info.run_id)
        if planned is None or key in planned:
            attempts[key].append(run)
    best = [min(runs, key=_rank) for runs in attempts.values()]
    seen = _age(int(tags[ALIVE])) if ALIVE in tags else None
    return SweepStatus(
        name=name,
        planned=None if planned is None else len(planned),
        finished=sum(run.info.status == "FINISHED" for run in best),
        failed=sum(run.info.status == "FAILED" for run in best),
        running=[_running(reader, run) for run in best if run.info.status == "RUNNING"],
        stopped=sum(run.info.status == "KILLED" and WARNING in run.data.tags for run in best),
        driver=_driver(parent.info.status if parent is not None else "", seen, ProcessName.parse(tags.get(DRIVER, ""))),
        driver_seen=seen,
    )


def _planned(tracking_uri: str, parent: Any) -> set[str] | None:
    """The keys of the trials that the last driver planned, None where they are lost; the experiment may hold others."""
    try:
        return set(json.loads(read_artifact(tracking_uri, parent, PLAN))["keys"])
    except Exception as error:  # noqa: BLE001 - a store may raise anything; the runs themselves are known
        log.warning("the list of planned trials cannot be read (%s): every trial of the sweep counts", one_line(error))
        return None


def _rank(run: Any) -> tuple[int, int]:
    """Sort key of a trial's attempts: a finished one first, then a running one, then the latest."""
    order = ("FINISHED", "RUNNING")
    return (order.index(run.info.status) if run.info.status in order else len(order), -run.info.start_time)


def _driver(parent: str, seen: float | None, process: ProcessName | None) -> str:
    """What is known of a driver by its parent run, the age of its last heartbeat, and its process if that is here."""
    if seen is None:
        return "none"
    if parent != "RUNNING":
        return "ended"
    if process is not None and process.dead:
        return "dead: its process has ended without closing the sweep"
    return "alive" if seen <= SILENT else "silent: killed, or cut off from the store"


def _running(reader: Reader, run: Any) -> RunningTrial:
    logged = reader.logged(run.info.run_id, "loss/train")
    return RunningTrial(run.info.run_name, run.info.run_id, _age(max([run.info.start_time, *logged])))


def _age(milliseconds: int) -> float:
    return max(0.0, time.time() - milliseconds / 1000)  # clocks differ
