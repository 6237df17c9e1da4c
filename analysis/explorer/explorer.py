"""The bias explorer: walk through the rows of a relation by key press.

explorer.js draws it, live in JupyterLab and in a page that `save` writes; matplotlib draws the
picture that a notebook keeps when nobody runs it.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import pandas as pd
import traitlets
from torch import Tensor

from analysis.bias.draw_bias import FROM_TOKEN, VIEWS
from analysis.bias.maps import columns_of
from analysis.explorer.draw import draw_explorer
from analysis.explorer.units import ExplorerUnit, add_clips, explorer_units, packed
from analysis.figures.pictures import png
from analysis.figures.place import Place
from posmlp.checkpoint import write_atomically
from posmlp.model import PosMLPVideo
from posmlp.pictures.knob_page import page_of

SCRIPT = Path(__file__).with_name("explorer.js")
CHOICES = ("stage", "block", "branch", "group", "query")


class ChoiceError(ValueError, traitlets.TraitError):
    """A value that the models do not have; a TraitError, so that traitlets undoes it."""


class BiasExplorer(anywidget.AnyWidget):
    """An interactive view of one row of a relation and of the table that it is read from.

    Parameters
    ----------
    model : PosMLPVideo
    other : PosMLPVideo, optional
        A second model of the same stages, layout, windows and groups (any gate), drawn beside the
        first on the same colour scale: before and after training, or two seeds.
    names : sequence of str, optional
        A name a model; "model" and "other" by default.
    view : str, optional
        `from the token` shows tables with earlier keys first and each key where it is seen, `by
        offset` at query - key.

    The traits stage, block (from 1), branch, group (from 0), query (t, y, x) and view follow the
    page, and the page follows them. `branch` is the branch's axes, with the step where a block has
    it twice, for example "T, step 3". When a choice is changed, finer ones that the new unit lacks
    become its last block, first branch, last group or the window's centre.

    Colours are symmetric about 0 and end at the 99th percentile of |weight| over all groups of the
    unit and both models. The page holds each group's weights as 16-bit integers: they are exact to
    1/65,534 of the group's largest |weight|. In a unit that is not tied by offset (dense, softmaxed
    GQPE) the row is the relation's own and the table its mean over pairs of equal offset.

    A notebook also keeps a PNG, which a code host, an HTML export and JupyterLab on another machine
    show. JupyterLab where the notebook was run trusts it, looks for the widget, and after the
    kernel's end says "model not found" until the cell is run again.

    Raises
    ------
    ValueError
        For models that differ in wiring, weights that are not finite, a wrong number of names, and
        a choice that the models do not have.
    """

    _esm = SCRIPT
    stage = traitlets.Int().tag(sync=True)
    block = traitlets.Int().tag(sync=True)
    branch = traitlets.Unicode().tag(sync=True)
    group = traitlets.Int().tag(sync=True)
    query = traitlets.Tuple(traitlets.Int(), traitlets.Int(), traitlets.Int()).tag(sync=True)
    view = traitlets.Unicode(FROM_TOKEN).tag(sync=True)
    data = traitlets.Dict().tag(sync=True)

    def __init__(
        self,
        model: PosMLPVideo,
        other: PosMLPVideo | None = None,
        *,
        names: Sequence[str] | None = None,
        view: str = FROM_TOKEN,
        clips: Tensor | None = None,
    ) -> None:
        models = [model] if other is None else [model, other]
        self.names = list(names) if names is not None else ["model", "other"][: len(models)]
        if len(self.names) != len(models):
            raise ValueError(f"names={self.names} must name {len(models)} model(s), one name each")
        self.units = explorer_units(models)
        first, data = self.units[0], packed(self.units, self.names)
        if clips is not None:
            add_clips(data, model, self.units, clips)
        super().__init__(
            stage=first.place.stage,
            block=first.place.block,
            branch=first.label,
            group=0,
            query=_centre(first),
            view=view,
            data=data,
        )

    @property
    def unit(self) -> ExplorerUnit:
        """The unit that is shown."""
        return self._units_of(self.stage, self.block, self.branch)[0]

    @property
    def selection(self) -> dict[str, Any]:
        """What is shown: stage, block, step, branch (its axes), group, query (t, y, x)."""
        return {**columns_of(self.unit.place), "group": self.group, "query": self.query}

    def rows(self) -> pd.DataFrame:
        """The rows of `bias_maps` of the map that is shown, with a first column `model`, a name."""
        parts = [self.unit.rows(m, self.group) for m in range(len(self.names))]
        for name, part in zip(self.names, parts, strict=True):
            part.insert(0, "model", name)
        return pd.concat(parts, ignore_index=True)

    def save(self, path: str | Path) -> Path:
        """Write `page()` to a file that works without a server or a network; returns its path."""
        path = Path(path)
        write_atomically(path, self.page().encode())
        return path

    def page(self) -> str:
        """An HTML page that opens at what is selected now.

        It holds explorer.js, every weight (two bytes each, in base64) and the clips, and fetches
        nothing.
        """
        state = {name: getattr(self, name) for name in (*CHOICES, "view")}
        state["data"] = {**self.data, "weights": _base64(self.data["weights"])}
        if clips := self.data.get("clips"):
            state["data"]["clips"] = {**clips, "pixels": _base64(clips["pixels"])}
        return page_of(f"Mixing weights: {' and '.join(self.names)}", state, SCRIPT)

    def draw(self) -> Place:
        """What is shown, as `draw_explorer` draws it; returns the figure."""
        return draw_explorer(self.unit, self.group, self.query, self.names, view=self.view)

    def __repr__(self) -> str:
        where = ", ".join(f"{name} {value}" for name, value in self.selection.items())
        return f"BiasExplorer of {' and '.join(self.names)} at {where}"

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle, metadata = super()._repr_mimebundle_(**kwargs)  # type: ignore[misc]
        return {**bundle, "image/png": _base64(self._picture())}, metadata

    def _picture(self) -> bytes:
        return png(self.draw())

    def _units_of(self, *choices: Any) -> list[ExplorerUnit]:
        """The units of a stage, block and branch, or of the first of these."""
        return [
            unit
            for unit in self.units
            if (unit.place.stage, unit.place.block, unit.label)[: len(choices)] == choices
        ]

    @traitlets.validate("stage", "block", "branch", "group", "query", "view")
    def _check(self, proposal: Any) -> Any:
        name, value = proposal.trait.name, proposal.value
        valid = self._valid(name)
        if value not in valid:
            shown = f"one of {valid}" if name != "query" else f"(t, y, x) inside {self.unit.window}"
            raise ChoiceError(f"{name}={value!r} is not in these models here; use {shown}")
        return value

    def _valid(self, name: str) -> list[Any]:
        """The values of one choice that go with the coarser choices."""
        if name == "group":
            return list(range(self.unit.num_groups))
        if name == "query":
            return list(np.ndindex(self.unit.window))
        if name == "view":
            return list(VIEWS)
        depth = CHOICES.index(name)
        coarser = [getattr(self, choice) for choice in CHOICES[:depth]]
        found = self._units_of(*coarser)
        return list(dict.fromkeys((u.place.stage, u.place.block, u.label)[depth] for u in found))

    @traitlets.observe("stage", "block", "branch")
    def _fit_finer_choices(self, change: Any) -> None:
        """As `fitted` in explorer.js does."""
        for name in CHOICES[CHOICES.index(change.name) + 1 :]:
            valid = self._valid(name)
            if getattr(self, name) in valid:
                continue
            if name == "query":
                self.query = _centre(self.unit)
            else:
                setattr(self, name, valid[0 if name == "branch" else -1])


def _centre(unit: ExplorerUnit) -> tuple[int, ...]:
    return tuple(side // 2 for side in unit.window)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
