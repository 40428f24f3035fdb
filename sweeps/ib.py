"""Where does a backdoor not take hold? Attack x poison rate x complexity x seed, with clean twins, as a map.

python sweeps/ib.py                                       digits, on this machine
python sweeps/ib.py --data cifar10 --model resnet18       on the Ray that runs here, or a new one
"""

import sys
from pathlib import Path
from typing import Any

from raybd.command_line.command import main
from raybd.command_line.grid import expand
from raybd.command_line.options import SweepOptions
from raybd.trials.config import TrialConfig
from raybd.utils.summary_folder import SummaryFolder
from sweeps import _sok

METRICS = ("mutual_information", "stealthiness", "smoothness", "stealth")
QUICK = (  # on digits each probe of information costs as much as the training
    "mutual_information:epochs=[2],passes=8,classes=1",
    "stealthiness",
    'smoothness:points=100,sigmas=[0.5],variants=["triggered","random_patch","moved_patch","twin_triggered"]',
    "stealth",
)
VIBE = "vibe:retrained,pretrain_epochs=12"
BESIDE: dict[str, Any] = {  # in the default sweep: VIBE where ordinary training lets the backdoor in
    "defences": ("none", VIBE),
    "defence_rates": (0.01, 0.03),
    "defence_weight_decays": (5e-4,),
}
PRESETS = {
    "quick": SweepOptions.of(
        poison_rates=(0.0, 0.0015, 0.003, 0.01, 0.03),
        weight_decays=(5e-4, 0.05),
        widths=(1.0,),
        epochs=(10,),
        seeds=5,  # with fewer, smoothing is never shown
        noise=0.1,
        metrics=QUICK,
        figures="first_seed",
    ),
    "paper": SweepOptions.of(  # arXiv 2511.21923: ResNet-18 on CIFAR-10, 120 epochs of batches of 256
        preset="paper",
        data="cifar10",
        model="resnet18",
        attacks=(
            "badnets:information_bottleneck",
            "blended:information_bottleneck",
            "wanet:no_noise",
            "label_consistent:information_bottleneck",
            "adaptive_blend",
            "ftrojan",
        ),
        poison_rates=(0.0, 0.01, 0.025, 0.05, 0.1),
        metrics=METRICS,
        noise=0.4,
        victims="all",
        seeds=5,
        weight_decays=(5e-4,),
        widths=(1.0,),
        epochs=(120,),
        batch_sizes=(256,),
        schedule="cosine",
        crop=(0,),
        flip=(False,),
        probes=(1, 5, 10, 20, 40, 60, 80, 100, 120),
    ),
    "finetune": SweepOptions.of(  # a pretrained network on images of one's own: few epochs, small steps
        preset="finetune",
        data="cifar10",
        model="torchvision:resnet18",
        weights="IMAGENET1K_V1",
        metrics=("smoothness", "stealth"),  # mutual information needs --noise, which such a network was trained without
        poison_rates=(0.0, 0.003, 0.01, 0.03),
        seeds=3,
        weight_decays=(5e-4, 5e-3),
        epochs=(5,),
        learning_rates=(0.01,),
        schedule="cosine",
    ),
    "sok": _sok.preset(),  # arXiv 2511.13143
}


def expand_default(options: SweepOptions) -> list[TrialConfig]:
    """The trials that the options ask for; the default question, with any number of seeds, has those of VIBE too.

    Raises:
        InputError: with everything wrong with the options.
    """
    return expand(options.replace(**BESIDE) if _asks_the_default(options) else options)


def _asks_the_default(options: SweepOptions) -> bool:
    default = PRESETS["quick"].replace(seeds=options.training.seeds)
    asked = [(one.dataset.data, one.attack, one.network, one.training) for one in (options, default)]
    return asked[0] == asked[1]


def summarise(name: str, tracking_uri: str, folder: SummaryFolder) -> tuple[str, list[Path]]:
    """What was found, the tables for the terminal, the map and the gap of smoothing as pictures, and the report."""
    # here: pandas, SciPy's statistics and matplotlib take over a second to import, which no wrong option shall wait for
    from analysis import DefendedRegionMap
    from analysis.findings import findings
    from analysis.plots import plot_map
    from analysis.records import canonical_frame
    from analysis.report import pictures_of, report
    from analysis.runs import run_verdicts
    from analysis.signatures import signature_lines, smoothing_gaps, smoothing_lines, smoothing_sigmas
    from analysis.sweep_summary import SummaryTable, grid_table, summary_text
    from raybd.metrics.smoothing.conclusion import judge_smoothing
    from raybd.metrics.smoothing.figures import draw_gaps
    from raybd.tracking import load_histories, load_runs
    from raybd.tracking.verdicts import tag_verdicts

    runs = load_runs(name, tracking_uri, all_metrics=True)
    region = DefendedRegionMap.from_frame(canonical_frame(runs))
    tag_verdicts(runs, run_verdicts(region), tracking_uri)
    cells = folder / "cells.csv"
    region.to_frame().to_csv(cells, index=False)
    pictures = folder.save(plot_map(region), "map")
    smoothing = smoothing_lines(runs, judge_smoothing)
    tables = [
        grid_table(region),
        SummaryTable(
            "Information and stealthiness (nats; in brackets the null)", signature_lines(runs), "signatures.csv"
        ),
        SummaryTable("Smoothing", smoothing, "smoothing.csv"),
    ]
    sentences = findings(region, runs, judge_smoothing)
    text, files = summary_text(sentences, tables, folder.path)
    if smoothing:
        sigma = smoothing_sigmas(runs)[-1]  # at the smallest, clean images mostly vote alike
        gaps = draw_gaps(smoothing_gaps(runs, sigma), f"{name}: smoothing at sigma {sigma}")
        pictures += folder.save(gaps, "smoothing")
    page = folder / "report.html"
    seen = report(runs, name, sentences, region, load_histories(name, tracking_uri), pictures_of(runs, tracking_uri))
    page.write_text(seen, encoding="utf-8")
    places = f"Every cell:  {cells}\nThe map:     {pictures[0]}\nThe report:  {page}"
    return f"{text}\n\n{places}", [*pictures, page, cells, *files]


if __name__ == "__main__":
    sys.exit(main(PRESETS, summarise, expand=expand_default, notes=_sok.notes))
