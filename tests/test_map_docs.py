"""The code of docs/map.md runs as it stands."""

import numpy as np
import pandas as pd

from tests.test_docs import blocks


def frame():
    """A sweep of two attacks, three rates and three weight decays, without a defence, three seeds."""
    places = {"params.attack.name": ["badnets", "blended"], "params.poison_rate": ["0.0", "0.003", "0.03"]}
    places |= {"params.train.weight_decay": ["0.0005", "0.02", "0.05"], "params.defence.name": ["none"]}
    table = pd.MultiIndex.from_product([*places.values(), ["0", "1", "2"]], names=[*places, "params.seed"])
    runs = table.to_frame(index=False)
    taken = runs["params.poison_rate"].astype(float) * 10 + runs["params.seed"].astype(float) / 100
    runs = runs.assign(**{"metrics.attack_success": taken.to_numpy(), "metrics.accuracy/clean": 0.9})
    return runs.assign(run_id=np.arange(len(runs)).astype(str), status="FINISHED", start_time=pd.Timestamp(0, tz="UTC"))


def test_the_page_of_the_map(monkeypatch, capsys):
    monkeypatch.setattr("raybd.tracking.load_runs", lambda *_: frame())
    names = {}
    for block in blocks("docs/map.md", "python"):
        exec(compile(block, "map.md", "exec"), names)
    said = capsys.readouterr().out
    assert "'poison_rate': 'log'" in said
    assert "interpolated over 6 cells" in said
