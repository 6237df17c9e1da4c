"""One page that gathers everything about one run: a single HTML file that needs no network."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
from matplotlib import pyplot as plt

from analysis.figures.pictures import png
from analysis.page import attribution, costs, history, inside, reliance, sections
from analysis.page.sections import Section
from posmlp.checkpoint import write_atomically
from posmlp.clip_scores import link
from posmlp.predict import open_run

SECTIONS: dict[str, Callable[[Path, str | None], Section]] = {
    "Where the order of frames becomes the answer": inside.order_of_frames,
    "Accuracy": sections.accuracy,
    "Which groups the model uses": reliance.group_knock_outs,
    "Mixing weights": sections.maps,
    "How the weights came to be": history.history,
    "Statistics of the mixing weights": sections.statistics,
    "Where it looks": attribution.sheets,
    "Which attribution can be believed": attribution.scorecard,
    "Cost": costs.costs,
    "Provenance": sections.provenance,
}
VERDICTS = (  # in the order in which they are told
    "Accuracy",
    "Where the order of frames becomes the answer",
    "Which groups the model uses",
)


def write_page(run: str | Path, out: str | Path | None = None, variant: str | None = None) -> Path:
    """Analyse one run and write its page, RUN/analysis.html by default; returns the path.

    At the top stand a verdict and what to distrust, as the sections tell. Accuracy is of every
    seed, the rest of the run's first. `variant`: where the run has several; the page is then
    RUN/analysis-VARIANT.html. A section that cannot be shown says why. Nothing is trained. Raises
    ValueError for a folder that holds no trained model.
    """
    run = Path(run)
    opened = open_run(run, variant=variant)
    of_variant = [opened.variant] if opened.variant else []
    out = Path(out) if out else run / f"{'-'.join(['analysis', *of_variant])}.html"
    sections = [_section(title, gather, run, variant, out) for title, gather in SECTIONS.items()]
    found = {section["title"]: section["verdict"] for section in sections}
    verdicts = [found[title] for title in VERDICTS if found.get(title)]
    doubts = [doubt for section in sections for doubt in section["distrust"]]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True
    )
    page = environment.get_template("template.html").render(
        name=", ".join([run.resolve().name, *of_variant]),
        config=opened.model.config,
        seed=opened.seed,
        sections=sections,
        verdict=" ".join(verdicts),
        distrust=[*doubts, f"all but accuracy as a rule: it is of seed {opened.seed} alone"],
        seconds=sum(section["seconds"] for section in sections),
    )
    write_atomically(out, page.encode(errors="backslashreplace"))
    return out


def _section(
    title: str,
    gather: Callable[[Path, str | None], Section],
    run: Path,
    variant: str | None,
    out: Path,
) -> dict[str, Any]:
    """What the template shows of one section; where it cannot be gathered, the reason."""
    start = time.perf_counter()
    open_before = set(plt.get_fignums())
    try:
        section, reason = gather(run, variant), ""
    except ValueError as error:
        section, reason = Section(""), str(error)
        for number in set(plt.get_fignums()) - open_before:
            plt.close(number)
    pictures = [(caption, png(figure)) for caption, figure in section.figures]
    figures = [
        {"caption": caption, "png": base64.b64encode(picture).decode()}
        for caption, picture in [*pictures, *section.animations]
    ]
    return {
        "title": title,
        "anchor": title.lower().replace(" ", "-"),
        "words": section.words,
        "verdict": section.verdict,
        "distrust": section.distrust,
        "reason": reason,
        "tables": section.tables,
        "figures": figures,
        "frames": section.frames,
        "links": [(path.relative_to(run), link(path, out.parent)) for path in section.files],
        "seconds": time.perf_counter() - start,
    }
