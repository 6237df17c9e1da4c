"""Variants at equal cost: widths are resized until a variant costs what the baseline does.

Parameters and multiply-adds are quadratic in the widths, with products of neighbouring stages
only. So a few counted models tell the cost at all widths; the best candidates are counted to prove
it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product

from ablations.grid.costs import costs
from posmlp.config import PosMLPConfig, gated_channels

Widths = tuple[int, ...]

NUM_TRIED = 1000
"""Combinations of widths, around those in proportion, whose cost is predicted; about."""
NUM_COUNTED = 4
LARGEST_SCALE = 8.0


@dataclass(frozen=True)
class Match:
    """How a variant was brought to the baseline's cost."""

    by: str
    """`params` or `gmacs`."""
    asked: float
    reached: float
    dims_before: Widths
    dims: Widths

    @property
    def difference(self) -> float:
        """What is left, as a share of what was asked."""
        return self.reached / self.asked - 1

    def __str__(self) -> str:
        reached = f"{shown(self.by, self.reached)} ({self.difference:+.2%})"
        if self.dims == self.dims_before:
            return f"{reached} at its own widths"
        before, after = (",".join(map(str, dims)) for dims in (self.dims_before, self.dims))
        return f"{reached} with dims {before} -> {after}"


def shown(by: str, value: float) -> str:
    """A cost with its unit."""
    return f"{value:,.0f} parameters" if by == "params" else f"{value:.4g} GMACs"


def matched(
    config: PosMLPConfig, baseline: PosMLPConfig, by: str, within: float
) -> tuple[PosMLPConfig, Match]:
    """The config at other widths, so that it costs what the baseline does.

    Of all widths that come within the share `within` of it, those nearest to one common factor
    times its own. Only `dims` change: every stage keeps its groups, windows and resolution. Raises
    ValueError if no widths come so near.
    """
    asked, best = costs(baseline)[by], config
    if costs(config)[by] != asked:
        candidates = _candidates(config, by, asked, within)
        near = (c for c in candidates if abs(costs(c)[by] / asked - 1) <= within)
        best = next(near, None) or min(candidates, key=lambda c: abs(costs(c)[by] - asked))
    match = Match(by, asked, costs(best)[by], config.dims, best.dims)
    if abs(match.difference) > within:
        raise ValueError(
            f"match: {by} asks for {shown(by, asked)}, as the baseline has, within {within:.1%}; "
            f"the nearest is {match}, as num_groups={list(config.num_groups)} must divide the "
            "gated channels; use fewer groups, or allow more with match_within"
        )
    return best, match


def _candidates(config: PosMLPConfig, by: str, asked: float, within: float) -> list[PosMLPConfig]:
    """A few configs of about the right size, the best first, by their predicted cost."""
    predict = _Quadratic(config, by)
    scale = predict.scale(asked)
    near = [_nearest(config, stage, scale) for stage in range(config.num_stages)]
    in_step = (tuple(d * w // config.dims[0] for d in config.dims) for w in near[0])
    possible = [
        widths for widths in {*product(*near), *in_step} if _resized(config, widths) is not None
    ]
    target = [scale * width for width in config.dims]

    def order(widths: Widths) -> tuple[float, float]:
        away = max(abs(math.log(w / t)) for w, t in zip(widths, target, strict=True))
        error = abs(predict(widths) / asked - 1)
        return (0.0, away) if error <= within else (error, away)

    chosen = sorted(possible, key=order)[:NUM_COUNTED]
    return [found for widths in chosen if (found := _resized(config, widths)) is not None]


def _resized(config: PosMLPConfig, widths: Widths) -> PosMLPConfig | None:
    """The config at other widths; None where they are not possible, or change a resolution."""
    try:
        other = replace(config, dims=widths)
    except ValueError:
        return None
    stages = range(config.num_stages)
    return other if all(other.halves(i) == config.halves(i) for i in stages) else None


def _possible_widths(config: PosMLPConfig, stage: int) -> Iterator[int]:
    """Widths of a stage, rising, whose gated channels its groups divide."""
    step = 2 if stage == 0 else 1
    for width in range(step, math.ceil(LARGEST_SCALE * config.dims[stage]) + 1, step):
        gated = gated_channels(config.mlp_ratio[stage], width)
        if gated and gated % config.num_groups[stage] == 0:
            yield width


def _nearest(config: PosMLPConfig, stage: int, scale: float) -> list[int]:
    target = scale * config.dims[stage]
    nearest = sorted(_possible_widths(config, stage), key=lambda width: abs(width - target))
    return nearest[: max(5, int(NUM_TRIED ** (1 / config.num_stages)))]


class _Quadratic:
    """The cost at any widths, from counting as many models as there are coefficients."""

    def __init__(self, config: PosMLPConfig, by: str) -> None:
        import numpy as np

        self.dims = config.dims
        points = [p for p in _points(config) if _resized(config, p) is not None]
        counted = [costs(replace(config, dims=point))[by] for point in points]
        scaled = np.array([self._terms(point) for point in points], float)
        self._weights = np.linalg.lstsq(scaled, np.array(counted, float), rcond=None)[0]

    def _terms(self, widths: Sequence[float]) -> list[float]:
        """1, w, w^2 and products of neighbours, of widths in units of the config's own."""
        w = [width / own for width, own in zip(widths, self.dims, strict=True)]
        return [1, *w, *(x * x for x in w), *(a * b for a, b in pairwise(w))]

    def __call__(self, widths: Sequence[float]) -> float:
        return float(self._weights @ self._terms(widths))

    def scale(self, asked: float) -> float:
        """The common factor of all widths at which the cost is what is asked."""
        low, high = 1 / LARGEST_SCALE, LARGEST_SCALE
        for _ in range(40):
            middle = math.sqrt(low * high)
            too_much = self([middle * width for width in self.dims]) > asked
            low, high = (low, middle) if too_much else (middle, high)
        return low


def _points(config: PosMLPConfig) -> Iterator[Widths]:
    """Widths that differ from the config's in every way that a coefficient needs."""
    dims = config.dims
    above = [
        [w for w in _possible_widths(config, stage) if w > dims[stage]][:2]
        for stage in range(config.num_stages)
    ]
    yield dims
    for i, steps in enumerate(above):
        for width in steps:
            yield (*dims[:i], width, *dims[i + 1 :])
        if i and above[i - 1]:
            yield (*dims[: i - 1], above[i - 1][0], steps[0], *dims[i + 1 :])
    for factor in (2, 3):
        yield tuple(factor * width for width in dims)
