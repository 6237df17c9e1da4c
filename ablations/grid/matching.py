"""Variants at equal cost: widths are resized until a variant costs what the baseline does.

Where all widths grow by one factor, parameters and multiply-adds are quadratic in it: three models
tell the factor that is wanted. Possible widths around it are then counted, the nearest first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice, product

from ablations.grid.costs import costs
from posmlp.config import PosMLPConfig, gated_channels

Widths = tuple[int, ...]

NUM_TRIED = 1000
"""Combinations of widths, around those in proportion; about."""
NUM_BUILT = 8
"""Of models with own code, which are built to be counted, so many are tried."""
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
        tried = list(islice(_candidates(config, by, asked), NUM_BUILT if config.code else None))
        near = (c for c in tried if abs(costs(c)[by] / asked - 1) <= within)
        best = next(near, None) or min(tried, key=lambda c: abs(costs(c)[by] - asked))
    match = Match(by, asked, costs(best)[by], config.dims, best.dims)
    if abs(match.difference) > within:
        raise ValueError(
            f"match: {by} asks for {shown(by, asked)}, as the baseline has, within {within:.1%}; "
            f"the nearest is {match}, as num_groups={list(config.num_groups)} must divide the "
            "gated channels; use fewer groups, or allow more with match_within"
        )
    return best, match


def _candidates(config: PosMLPConfig, by: str, asked: float) -> Iterator[PosMLPConfig]:
    """Configs of about the right size, those nearest to one common factor first."""
    scale = _scale(config, by, asked)
    near = [_nearest(config, stage, scale) for stage in range(config.num_stages)]
    in_step = (tuple(d * w // config.dims[0] for d in config.dims) for w in near[0])

    def away(widths: Widths) -> float:
        pairs = zip(widths, config.dims, strict=True)
        return max(abs(math.log(width / (scale * own))) for width, own in pairs)

    for widths in sorted({*product(*near), *in_step}, key=away):
        if (found := _resized(config, widths)) is not None:
            yield found


def _scale(config: PosMLPConfig, by: str, asked: float) -> float:
    """The common factor of all widths at which the cost, a quadratic in it, is what is asked."""
    import numpy as np

    factors = (1, 2, 3)
    sizes = [replace(config, dims=tuple(factor * d for d in config.dims)) for factor in factors]
    quadratic = np.polyfit(factors, [costs(each)[by] for each in sizes], 2) - [0, 0, asked]
    found = max(np.roots(quadratic).real, default=1.0)
    return float(min(max(found, 1 / LARGEST_SCALE), LARGEST_SCALE))


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
