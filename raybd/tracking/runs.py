"""Runs of a store as plain data, with the attributes of MLflow's Run."""

from dataclasses import dataclass

PLANNED, ALIVE = "raybd.planned", "raybd.alive"  # tags of a sweep's parent run: number of trials; last heartbeat
DRIVER = "raybd.driver"  # tag of the parent run: the process of the last driver
PLAN = "plan.json"  # its artifact with their keys


@dataclass(frozen=True)
class RunInfo:
    """What identifies a run; times in milliseconds since 1970."""

    run_id: str
    run_name: str
    status: str
    start_time: int
    end_time: int | None
    artifact_uri: str


@dataclass(frozen=True)
class RunData:
    """What was logged to a run: each metric's last value."""

    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]


@dataclass(frozen=True)
class Run:
    """A run."""

    info: RunInfo
    data: RunData
