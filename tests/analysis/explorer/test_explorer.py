"""The explorer against the tables it shows: in Python, in its picture and in a real browser."""

from __future__ import annotations

import base64
import io
import json
import re
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import matplotlib
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt
from PIL import Image

from analysis import arrow_of_time, bias_maps, exemplars, units
from analysis.explorer.draw import draw_explorer
from analysis.explorer.explorer import BiasExplorer
from analysis.explorer.knob import Shown, check_knob, knob_state, swing_pictures, write_knob
from analysis.explorer.units import LARGEST, explorer_units
from posmlp import GATES, PosMLPConfig, PosMLPVideo, create_model
from posmlp.checkpoint import save
from posmlp.data.augment import normalise
from posmlp.data.sources import HeldClips
from posmlp.pictures.knob_page import knob_page, with_weights
from tests.browser import open_notebook, run_notebook, serve_lab

SMALL = PosMLPConfig(
    num_frames=3, image_size=16, depths=(1, 2), dims=(4, 8), num_groups=(2, 4), windows=(4, 2)
)
READOUT = re.compile(r"query (.*); (?:key (.*)|no key there); (.*); weight (.*)")


PAUSE_MS = (40, 80)
WATCH = """(canvas) => {
    const times = window.keyTimes = { drawn: [], shown: [], presented: [] };
    canvas.addEventListener("keydown", (event) => {  // after the explorer's own listener
        times.drawn.push(performance.now() - event.timeStamp);
        requestAnimationFrame(() => {
            const done = new MessageChannel();
            done.port1.onmessage = () => times.shown.push(performance.now() - event.timeStamp);
            done.port2.postMessage(null);
        });
    });
    new PerformanceObserver((list) => {
        for (const { name, duration } of list.getEntries())
            if (name === "keydown") times.presented.push(duration);
    }).observe({ type: "event", durationThreshold: 16 });
}"""


def key_times(tab: Any, num_presses: int) -> dict[str, list[float]]:
    """Press arrow keys on the explorer of a tab and return milliseconds by WATCH's names."""
    canvas = tab.locator(".bias-explorer canvas.map")
    canvas.focus()
    canvas.evaluate(WATCH)
    pauses = np.random.default_rng(0).uniform(*PAUSE_MS, num_presses)
    for i, pause in enumerate(pauses.tolist()):
        tab.keyboard.press("ArrowLeft" if i % 2 else "ArrowRight")
        tab.wait_for_timeout(pause)
    while len(canvas.evaluate("() => keyTimes.shown")) < num_presses:
        tab.wait_for_timeout(20)
    found: dict[str, list[float]] = canvas.evaluate("() => keyTimes")
    return found


def explorer_of(config: PosMLPConfig | str, **changes: Any) -> BiasExplorer:
    """Two models of random weights side by side, at the first unit that has a spatial window."""
    explorer = BiasExplorer(*(random_model(config, seed, **changes) for seed in (0, 1)))
    explorer.branch = next(unit.label for unit in explorer.units if "S" in unit.label)
    return explorer


def random_model(config: PosMLPConfig | str, seed: int = 0, **changes: Any) -> PosMLPVideo:
    """A model with every parameter drawn from a normal distribution."""
    model = create_model(config, **changes)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def model_of(seed: int = 0, **changes: Any) -> PosMLPVideo:
    """SMALL with changes, every parameter drawn from a normal distribution."""
    return random_model(SMALL, seed, **changes)


@pytest.mark.parametrize("gate", GATES)
def test_row_is_the_row_of_the_relation(gate: str) -> None:
    model = model_of(gate=gate, layout="T+S>ST")
    for unit, place in zip(explorer_units([model]), units(model), strict=True):
        relation = place.unit.relation().detach().double().numpy()
        assert unit.quantity == ("attention logit" if "attention" in gate else "mixing weight")
        for token, query in enumerate(np.ndindex(unit.window)):
            expected = relation[1, token].reshape(unit.window)
            assert unit.row(0, 1, query) == pytest.approx(expected, abs=1e-6)


def test_means_stand_in_and_are_named_when_the_relation_is_too_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("analysis.explorer.units.MOST_PAIRS", 2 * 3 * 3)
    spatial = explorer_units([model_of(gate="dense", layout="S")])[0]
    assert spatial.relations == (None,)
    assert "means over pairs of equal offset" in spatial.notes[0]
    temporal = explorer_units([model_of(gate="dense", layout="T")])[0]
    assert temporal.relations[0] is not None
    assert "the row is exact" in temporal.notes[0]


def test_rows_are_those_of_bias_maps() -> None:
    pair = model_of(layout="T>S>T", gate="dense"), model_of(1, layout="T>S>T")
    explorer = BiasExplorer(*pair, names=["dense", "lrpe"])
    explorer.stage, explorer.block, explorer.branch, explorer.group = 2, 2, "T, step 3", 3
    assert explorer.selection == {
        **{"stage": 2, "block": 2, "step": 3, "branch": "T", "group": 3},
        "query": (1, 0, 0),
    }
    rows = explorer.rows()
    where = "stage == 2 and block == 2 and step == 3 and branch == 'T' and group == 3"
    for name, model in zip(("dense", "lrpe"), pair, strict=True):
        expected = bias_maps(model).query(where).reset_index(drop=True)
        found = rows[rows["model"] == name].drop(columns="model").reset_index(drop=True)
        pd.testing.assert_frame_equal(found, expected)


def test_a_coarser_choice_keeps_what_fits_and_moves_what_does_not() -> None:
    explorer = BiasExplorer(model_of(layout=("T+S", "S")))
    assert explorer.selection["query"] == (1, 0, 0)
    explorer.stage = 2
    assert (explorer.block, explorer.branch, explorer.query) == (1, "S", (0, 1, 1))
    explorer.block, explorer.group, explorer.query = 2, 3, (0, 1, 0)
    explorer.stage = 1
    assert (explorer.block, explorer.branch, explorer.group) == (1, "S", 1)
    assert explorer.query == (0, 1, 0)
    explorer.branch = "T"
    assert explorer.query == (1, 0, 0)
    explorer.stage = 2
    assert (explorer.branch, explorer.query) == ("S", (0, 1, 1))


@pytest.mark.parametrize(
    ("name", "value", "valid"),
    [
        ("stage", 3, r"one of \[1, 2\]"),
        ("block", 2, r"one of \[1\]"),
        ("branch", "ST", r"one of \['T', 'S'\]"),
        ("group", 2, r"one of \[0, 1\]"),
        ("query", (3, 0, 0), r"inside \(3, 1, 1\)"),
        ("query", (-1, 0, 0), r"inside \(3, 1, 1\)"),
    ],
)
def test_a_choice_that_is_not_there_is_refused_and_undone(
    name: str, value: Any, valid: str
) -> None:
    explorer = BiasExplorer(model_of())
    before = explorer.selection
    with pytest.raises(ValueError, match=valid):
        setattr(explorer, name, value)
    assert explorer.selection == before


def test_models_that_cannot_stand_side_by_side_are_refused() -> None:
    model = model_of()
    for changes in ({"windows": 2}, {"layout": "T>S"}, {"depths": (1, 1)}, {"num_groups": 2}):
        with pytest.raises(ValueError, match="the models differ at"):
            BiasExplorer(model, model_of(**changes))
    with pytest.raises(ValueError, match="must name 2 model"):
        BiasExplorer(model, model, names=["one"])
    with torch.no_grad():
        next(units(model)).unit.positions.table[1, 0] = torch.nan
    with pytest.raises(ValueError, match="stage 1, block 1, branch T holds weights that are not"):
        BiasExplorer(model)


def test_one_scale_serves_both_models_and_all_groups() -> None:
    model, other = model_of(layout="T"), model_of(layout="T")
    with torch.no_grad():
        for place in units(other):
            place.unit.positions.table[-1] *= 10
    alone, both = explorer_units([model])[0], explorer_units([model, other])[0]
    values = np.concatenate([both.tables[0].ravel(), both.tables[1].ravel()])
    assert both.limit == pytest.approx(np.percentile(np.abs(values), 99))
    assert both.limit > 3 * alone.limit
    zero = explorer_units([create_model(SMALL, init="released")])[0]
    assert zero.limit == 1.0


def test_packed_weights_are_as_exact_as_the_page_says() -> None:
    model = model_of(layout="T+S", gate="dense")
    with torch.no_grad():
        next(units(model)).unit.positions.weight[0] = 0
    explorer = BiasExplorer(model)
    packed = np.frombuffer(explorer.data["weights"], "<i2")
    for unit, described in zip(explorer.units, explorer.data["units"], strict=True):
        arrays = {"table": unit.tables[0], "relation": unit.relations[0]}
        for name, exact in arrays.items():
            assert exact is not None
            start, scales = (described["models"][0][name][key] for key in ("start", "scales"))
            flat = exact.reshape(len(exact), -1)
            found = (
                packed[start : start + flat.size].reshape(flat.shape) * np.array(scales)[:, None]
            )
            largest = np.abs(flat).max(axis=1, keepdims=True)
            assert (np.abs(found - flat) <= largest / (2 * LARGEST) * (1 + 1e-9)).all()
    assert 2 * LARGEST == 65_534


def test_notebook_gets_widget_picture_and_text() -> None:
    explorer = BiasExplorer(model_of(layout="ST"), model_of(1, layout="ST"), names=["a", "b"])
    figures = plt.get_fignums()
    bundle, _ = explorer._repr_mimebundle_()
    assert plt.get_fignums() == figures
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert "stage 1, block 1, step 1, branch ST, group 0" in bundle["text/plain"]
    picture = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))
    assert min(picture.size) > 200
    explorer.query = (2, 3, 1)
    assert explorer._repr_mimebundle_()[0]["image/png"] != bundle["image/png"]


def test_static_picture_draws_the_row_and_the_table_on_one_scale() -> None:
    explorer = BiasExplorer(model_of(layout="ST"), model_of(1, layout="ST"))
    unit = explorer.unit
    figure = draw_explorer(unit, 1, (2, 0, 3), explorer.names)
    images = [ax.images[0] for ax in figure.axes if ax.images]
    dashed = [
        patch for patch in figure.axes[2].patches if patch.get_linestyle() not in ("-", "solid")
    ]
    assert len(dashed) == 3  # a window of each frame that the row reads
    assert "query t 2, y 0, x 3" in figure.get_suptitle().replace("\n", " ")
    expected = [unit.row(0, 1, (2, 0, 3)), unit.row(1, 1, (2, 0, 3)), *(t[1] for t in unit.tables)]
    for image, values in zip(images[:4], expected, strict=True):
        shown = image.get_array().compressed()
        assert sorted(shown) == pytest.approx(sorted(values.ravel()))
        assert image.get_clim() == pytest.approx((-unit.limit, unit.limit))
    plt.close(figure)


# In a real browser


class Page:
    """A saved page in the browser, and what went over the wire."""

    def __init__(self, browser: Any, path: Path) -> None:
        self.tab = browser.new_page(viewport={"width": 1100, "height": 700})
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.on("pageerror", lambda error: self.errors.append(str(error)))
        self.tab.on("console", lambda message: self.errors.append(message.text))
        self.tab.goto(path.as_uri())
        self.canvas = self.tab.locator("canvas.map")

    def picture(self) -> str:
        return str(self.canvas.evaluate("(canvas) => canvas.toDataURL()"))

    def readout(self) -> tuple[tuple[int, ...], tuple[int, ...] | None, tuple[int, ...], str]:
        return parsed(self.tab.locator("output").inner_text())

    def choose(self, name: str, value: str) -> None:
        self.tab.get_by_label(name, exact=True).select_option(value)

    def scan(self) -> list[tuple[str, tuple[int, ...]]]:
        """Readout under the pointer, and pixel without it, at points all over the canvas."""
        found = self.canvas.evaluate(
            """(canvas) => {
                const output = canvas.closest(".bias-explorer").querySelector("output");
                const { left, top, width, height } = canvas.getBoundingClientRect();
                const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
                const found = [];
                for (let y = 5; y < height; y += 7) for (let x = 5; x < width; x += 7) {
                    const at = 4 * (y * canvas.width + x);
                    if (data[at + 3] < 255) continue;  // no picture there
                    const where = { clientX: left + x, clientY: top + y };
                    canvas.dispatchEvent(new PointerEvent("pointermove", where));
                    found.push([output.textContent, [...data.slice(at, at + 3)]]);
                }
                canvas.dispatchEvent(new PointerEvent("pointerleave"));
                return found;
            }"""
        )
        return [(text, tuple(pixel)) for text, pixel in found]


def parsed(text: str) -> tuple[Any, Any, Any, str]:
    match = READOUT.fullmatch(text)
    assert match, text
    query, key, offset = (part and numbers_of(part) for part in match.groups()[:3])
    return query, key, offset, match[4]


def numbers_of(part: str) -> tuple[int, ...]:
    """`t 1, x 2` and `dt 1, dx 2` as (1, 0, 2): an axis of length 1 is hidden."""
    shown = {name[-1]: int(value) for name, value in map(str.split, part.split(", "))}
    return tuple(shown.get(axis, 0) for axis in "tyx")


def test_page_reads_out_every_offset_and_paints_its_colour(browser: Any, tmp_path: Path) -> None:
    clips = torch.randint(0, 256, (4, 3, 16, 16, 3), dtype=torch.uint8)
    explorer = BiasExplorer(model := model_of(layout="ST"), clips=clips)
    explorer.stage, explorer.group, explorer.query = 2, 3, (1, 0, 1)
    page = Page(browser, explorer.save(tmp_path / "bias.html"))
    found = exemplars(model, normalise(clips), explorer.unit.place, 3).drop_duplicates("clip")
    column = page.tab.locator("canvas.films").evaluate(  # x = 40: the middle of each last frame
        "(canvas) => [...canvas.getContext('2d').getImageData(40, 0, 1, 48).data]"
    )
    for line, clip in enumerate(found["clip"][:3]):
        assert column[4 * (16 * line + 8) :][:3] == clips[clip, 2, 8, 8].tolist()
    table = explorer.rows().set_index(["dt", "dy", "dx"])["bias"]
    weights, colours, keys = {}, defaultdict(Counter), set()
    for text, pixel in page.scan():
        query, key, offset, weight = parsed(text)
        assert query == (1, 0, 1)
        if key is not None:
            assert tuple(np.subtract(query, key)) == offset
            keys.add(key)
        weights[offset] = float(weight)
        colours[offset][pixel] += 1
    assert keys == set(np.ndindex(3, 2, 2))
    assert set(weights) == set(table.index)
    limit = explorer.unit.limit
    shades = matplotlib.colormaps["RdBu_r"].resampled(255)
    for offset, bias in table.items():
        assert weights[offset] == pytest.approx(bias, rel=1e-3, abs=2e-5 * limit)
        expected = 255 * np.array(shades((bias / limit + 1) / 2)[:3])
        pixel = colours[offset].most_common(1)[0][0]
        assert pixel == pytest.approx(expected, abs=4)
    assert not page.errors


def test_page_shows_the_row_of_a_relation_that_is_not_tied(browser: Any, tmp_path: Path) -> None:
    model = model_of(layout="ST", gate="dense")
    explorer = BiasExplorer(model, model_of(layout="ST"), names=["dense", "tied"])
    explorer.stage, explorer.group, explorer.query = 2, 3, (1, 1, 0)
    page = Page(browser, explorer.save(tmp_path / "bias.html"))
    unit = next(place.unit for place in units(model) if place.stage == 2)
    row = unit.relation()[3, 6].detach().numpy().reshape(3, 2, 2)
    dense = explorer.rows().query("model == 'dense'")
    means = dense.set_index(["dt", "dy", "dx"])["bias"]
    shown = defaultdict(set)
    for text, _ in page.scan():
        _, key, offset, weight = parsed(text)
        values = re.fullmatch(r"dense (\S+), tied \S+", weight)
        assert values
        shown[key, offset].add(float(values[1]))
    for key in np.ndindex(3, 2, 2):
        offset = tuple(np.subtract((1, 1, 0), key))
        both = sorted([row[key], means[offset]])
        assert sorted(shown[key, offset]) == pytest.approx(both, rel=1e-3, abs=1e-3)
    assert "dense: the row is exact" in page.tab.locator("main").inner_text()


def test_page_answers_keys_pointer_and_choices(browser: Any, tmp_path: Path) -> None:
    explorer = BiasExplorer(model_of(layout="S+ST"))
    explorer.branch = "ST"
    explorer.query = (1, 2, 3)
    page = Page(browser, explorer.save(tmp_path / "bias.html"))
    pictures = [page.picture()]
    page.tab.keyboard.press("Tab")
    for _ in range(6):  # past the help, the four choices and the view to the picture
        page.tab.keyboard.press("Tab")
    steps = {
        "ArrowRight": (2, 2, 0),  # over the side of frame 1 lies frame 2
        "ArrowLeft": (1, 2, 3),
        "ArrowUp": (1, 1, 3),
        "ArrowDown": (1, 2, 3),
        "PageUp": (0, 2, 3),
        "PageDown": (1, 2, 3),
    }
    for key, query in steps.items():
        page.tab.keyboard.press(key)
        assert page.readout()[:3] == (query, query, (0, 0, 0))
        pictures.append(page.picture())
    page.tab.keyboard.press("Shift+ArrowUp")
    assert page.readout()[:3] == ((1, 2, 3), (1, 1, 3), (0, 1, 0))
    for name, value in {"group": "1", "branch": "S", "stage": "2", "block": "2"}.items():
        page.choose(name, value)
        pictures.append(page.picture())
    distinct = [*pictures[:4], *pictures[5:6], *pictures[7:]]
    assert len(set(distinct)) >= len(distinct) - 2  # there and back again shows the same
    assert pictures[0] == pictures[2] == pictures[4] == pictures[6]
    assert page.readout()[0] == (0, 1, 1)
    assert page.tab.get_by_label("group", exact=True).input_value() == "1"
    box = page.canvas.bounding_box()
    page.tab.mouse.click(box["x"] + 30, box["y"] + 52)  # the row's first token, right of its ticks
    assert page.readout()[:2] == ((0, 0, 0), (0, 0, 0))
    assert "t 0" not in page.tab.locator("output").inner_text()  # an S unit has no time
    thumbs = page.tab.locator("canvas.thumbs").bounding_box()
    page.tab.mouse.click(thumbs["x"] + 6, thumbs["y"] + 10)
    assert page.tab.get_by_label("group", exact=True).input_value() == "0"
    assert "group 0 of 4" in page.tab.locator("main").inner_text()
    assert not page.tab.get_by_text("Point at a cell").is_visible()
    page.tab.get_by_text("?", exact=True).click()
    assert page.tab.get_by_text("Point at a cell").is_visible()


def test_on_a_phone_models_stack_and_a_tap_probes(browser: Any, tmp_path: Path) -> None:
    explorer = BiasExplorer(model_of(layout="S"), model_of(1, layout="S"))
    path = explorer.save(tmp_path / "bias.html")
    wide = Page(browser, path)
    wide_height = wide.canvas.bounding_box()["height"]
    phone = browser.new_context(
        viewport={"width": 390, "height": 800}, has_touch=True, color_scheme="dark"
    )
    tab = phone.new_page()
    tab.goto(path.as_uri())
    canvas, output = tab.locator("canvas.map"), tab.locator("output")
    box = canvas.bounding_box()
    assert box["height"] > 1.5 * wide_height
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    ink = "getComputedStyle(document.querySelector('output')).color"
    assert wide.tab.evaluate(ink) != tab.evaluate(ink)  # dark and light
    before = parsed(output.inner_text())
    assert before[0] == (0, 2, 2)
    tab.touchscreen.tap(box["x"] + 30, box["y"] + 52)
    assert parsed(output.inner_text())[:2] == ((0, 2, 2), (0, 0, 0))  # read out, and no more
    tab.touchscreen.tap(box["x"] + 30, box["y"] + 52)
    assert parsed(output.inner_text())[0] == (0, 0, 0)
    phone.close()


def test_page_asks_for_nothing_and_survives_names_that_look_like_html(
    browser: Any, tmp_path: Path
) -> None:
    name = "</script><img src=http://127.0.0.1:9/x>&"
    path = BiasExplorer(model_of(), names=[name]).save(tmp_path / "a folder" / "bias.html")
    page = Page(browser, path)
    assert page.tab.title() == f"Mixing weights: {name}"
    page.tab.keyboard.press("Tab")
    assert page.readout()[0] == (1, 0, 0)
    assert page.requests == [path.as_uri()]
    assert not page.errors
    assert [file.name for file in path.parent.iterdir()] == ["bias.html"]


def test_key_presses_are_timed_until_the_picture_is_drawn_and_shown(
    browser: Any, tmp_path: Path
) -> None:
    page = Page(browser, explorer_of(SMALL).save(tmp_path / "bias.html"))
    before = page.picture()
    times = key_times(page.tab, 7)
    assert page.picture() != before  # an odd number of presses, to and fro
    assert len(times["drawn"]) == len(times["shown"]) == 7
    pairs = zip(times["drawn"], times["shown"], strict=True)
    assert all(0 < drawn <= shown for drawn, shown in pairs)


def shown_of(model: PosMLPVideo) -> Shown:
    """A model with two random clips, of classes that reverse each other."""
    clips = torch.randint(0, 256, (2, 4, 16, 16, 3), generator=torch.Generator().manual_seed(2))
    labels, reverse = torch.tensor([0, 1]), torch.tensor([1, 0])
    names = ("<b>right</b>", "left")
    held = HeldClips("pairs", names, labels, reverse, clips.to(torch.uint8), {})
    return Shown(model, create_model(model.config), held, [0, 1])


def test_page_with_the_knob_computes_what_the_model_does(browser: Any, tmp_path: Path) -> None:
    """Both kinds of norm, joint and single branches, windows in time, at both widths."""
    first = {"layout": ("T>ST", "T+S"), "token_bias": False, "stem_norm": "layer"}
    for width, changes in ((1200, first), (390, {"downsample_norm": "batch"})):
        fields = {"num_frames": 4, "temporal_windows": 2, "num_classes": 2, **changes}
        model = model_of(**fields).eval()
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                if tensor.is_floating_point():  # as float16 has them; variances are positive
                    near = 1 + tensor.abs() if name.endswith("running_var") else tensor / 2
                    tensor.copy_(near.half().float())
        shown = shown_of(model)
        path = tmp_path / f"{width}.html"
        path.write_text(knob_page(with_weights(knob_state(shown), model.state_dict())))
        page = Page(browser, path)
        page.tab.set_viewport_size({"width": width, "height": 800})
        for clip, backwards, strength in ((0, False, 1.0), (1, True, 0.25), (1, False, -1.0)):
            pixels = shown.held.clips[[clip]]
            inputs = normalise(pixels.flip(1) if backwards else pixels).double()
            with torch.no_grad():
                expected = arrow_of_time(model, strength).double()(inputs)[0]
            asked = f"knob.logits({clip}, {str(backwards).lower()}, {strength})"
            assert page.tab.evaluate(asked) == pytest.approx(expected.tolist(), abs=1e-4)
        assert page.tab.evaluate("document.documentElement.scrollWidth") == width
        assert "<b>right</b>" in page.tab.locator(".bars").inner_text()
        bars = page.tab.locator(".bars .fill")
        before = bars.first.get_attribute("style")
        page.tab.get_by_label("arrow of time").fill("1")
        assert bars.first.get_attribute("style") != before
        page.tab.get_by_text("as learned", exact=True).click()
        assert bars.first.get_attribute("style") == before
        page.tab.get_by_label("all groups").check()
        page.tab.get_by_text("zero", exact=True).click()
        assert bars.first.get_attribute("style") != before
        page.tab.get_by_text("reset", exact=True).click()
        assert bars.first.get_attribute("style") == before
        value = page.tab.locator("section output").last
        read = value.inner_text()
        page.tab.locator("canvas.table").press("ArrowUp")
        assert value.inner_text() != read
        page.tab.get_by_text("reset all").click()
        box = page.tab.locator("canvas.table").bounding_box()
        page.tab.mouse.move(box["x"] + box["width"] - 4, box["y"] + 30)
        page.tab.mouse.down()
        page.tab.mouse.move(box["x"] + box["width"] - 4, box["y"] + 4)
        page.tab.mouse.up()
        assert bars.first.get_attribute("style") != before
        assert "later: " in value.inner_text()
        assert not page.errors
        assert page.requests == [path.as_uri()]


def test_knob_refuses_what_the_page_cannot_run(tmp_path: Path) -> None:
    model = create_model(SMALL, num_classes=14)
    save(model, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"must end in .html for the page"):
        write_knob(tmp_path / "model.safetensors", tmp_path / "knob.gif")
    for changes, message in (({"gate": "dense"}, "gate='dense'"), ({"layout": "S"}, "never mixes")):
        with pytest.raises(ValueError, match=message):
            check_knob(create_model(SMALL, **changes))
    save(create_model(SMALL, num_classes=3), tmp_path / "three.safetensors")
    with pytest.raises(ValueError, match="tells 3 classes apart and moving-digits has 14"):
        write_knob(tmp_path / "three.safetensors", tmp_path / "knob.html")


@pytest.mark.usefixtures("plain_figures")
def test_swing_has_a_picture_a_strength(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.explorer.knob.HOLD", 1)
    monkeypatch.setattr("analysis.explorer.knob.TURN", 1)
    figures = plt.get_fignums()
    pictures = swing_pictures(shown_of(model_of(num_frames=4, num_classes=2)))
    assert len(pictures) == 4
    assert (pictures[0] != pictures[2]).any()
    assert plt.get_fignums() == figures


IN_LAB = """
import json
from pathlib import Path
from analysis import BiasExplorer
from posmlp import create_model

explorer = BiasExplorer(create_model("toy", layout="S+ST"))

def record(change):
    Path("selection.json").write_text(json.dumps(explorer.selection))

def answer(change):
    explorer.stage = 2

explorer.observe(answer, "group")
explorer.observe(record)
explorer
"""
WAIT_S = 30


def selection_where(path: Path, **expected: Any) -> dict[str, Any]:
    """What Python last wrote, as soon as it is as expected."""
    deadline = time.monotonic() + WAIT_S
    found: dict[str, Any] = {}
    while time.monotonic() < deadline:
        if path.exists() and (text := path.read_text()):
            found = json.loads(text)
            if expected.items() <= found.items():
                return found
        time.sleep(0.1)
    raise AssertionError(f"Python saw {found}, not {expected}")


def test_explorer_lives_in_jupyterlab_and_leaves_a_picture(browser: Any, tmp_path: Path) -> None:
    root = tmp_path / "notebooks"
    root.mkdir()
    cells = [nbformat.v4.new_code_cell(IN_LAB), nbformat.v4.new_code_cell("print('after')")]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=kernel)
    nbformat.write(notebook, root / "explorer.ipynb")
    with serve_lab(root, tmp_path / "private") as address:
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        run_notebook(page, address, "explorer.ipynb")
        canvas = page.locator(".bias-explorer canvas.map")
        readout = page.locator(".bias-explorer output")
        canvas.focus()
        active = "window.jupyterapp.shell.currentWidget.content.activeCellIndex"
        before = page.evaluate(active)
        picture = canvas.evaluate("(canvas) => canvas.toDataURL()")
        page.keyboard.press("ArrowUp")
        page.keyboard.press("ArrowLeft")
        assert readout.inner_text().startswith("query y 1, x 1;")
        assert canvas.evaluate("(canvas) => canvas.toDataURL()") != picture
        assert page.evaluate(active) == before  # JupyterLab did not take the arrows
        selection_where(root / "selection.json", query=[0, 1, 1], group=0, branch="S")

        page.get_by_label("group", exact=True).select_option("1")
        selection_where(root / "selection.json", stage=2, group=1)  # `answer` moved it
        page.wait_for_function(
            "() => document.querySelector('.bias-explorer select').value === '2'",
            timeout=WAIT_S * 1000,
        )
        page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")
        page.close()
        # Another reader's JupyterLab does not trust the notebook, hence shows no stored widget.
        with serve_lab(root, tmp_path / "reader") as elsewhere:
            page = browser.new_page()
            open_notebook(page, elsewhere, "explorer.ipynb")
            image = page.locator(".jp-OutputArea img[src^='data:image/png']")
            image.wait_for(timeout=WAIT_S * 1000)
            assert page.locator(".bias-explorer").count() == 0
