"""The arrow of time as a knob: the odd part of what a model mixes by, scaled.

Shapes: G channel groups, N = T n tokens of a window of T frames of n places.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from analysis.bias.maps import check_ours, units
from analysis.borrow import borrowed, unwrapped
from posmlp.checkpoint import copied
from posmlp.data.augment import normalise
from posmlp.data.sources import ClipSource
from posmlp.gates.attention import AttentionGate, QKVAttentionGate
from posmlp.gates.centred import CentredAttention, CentredGQPE, CentredMean
from posmlp.gates.controls import MeanGate, NoMixing
from posmlp.gates.convolution import ConvGate
from posmlp.gates.dense import Dense, LRPEPlusDense
from posmlp.gates.gqpe import GQPE
from posmlp.gates.row_bank import RowBankUnit
from posmlp.gating import PositionalGatingUnit
from posmlp.model import PosMLPVideo
from posmlp.positions import LRPE, Relation
from posmlp.train.scoring import metrics

WITH_POSITIONS = (
    PositionalGatingUnit,
    RowBankUnit,
    AttentionGate,
    QKVAttentionGate,
    CentredAttention,
)
WITHOUT_RELATION = (MeanGate, CentredMean, NoMixing)


def arrow_of_time(model: PosMLPVideo, strength: float) -> PosMLPVideo:
    """A copy of a model that hears the order of frames `strength` times as much as it learned to.

    The odd part, under reversal of the frames of a window, of every relation over time and of its
    token bias is multiplied by `strength`: 1 leaves the model as it is, at 0 no answer depends on
    the direction of time, and at -1 the copy answers a clip as the model answers its reversal.

    Theorem. In eval mode, copy(-1)(clip) = model(clip reversed), and copy(0)(clip) =
    copy(0)(clip reversed), for every gate of `posmlp.GATES`, layout and division into windows.

    Proof. Let J reverse the order of frames: J J = 1. Write a unit of T or ST as
    z = (P u + b) * v, with P (N, N) for each channel and b (N, 1). What else a model does is the
    same for every frame, whatever its number: stem, norms, linear layers, GELU, the product by v,
    the sum of branches and the residual sum, downsampling, and the branch S. All of it commutes
    with J, and the mean over tokens does not see J. Windows in time change places under J, and
    inside each of them frames are reversed; all of them have the same P and b. Replace P by J P J
    and b by J b. Of u and v the unit then makes (J P J u + J b) * v = J ((P (J u) + b) * (J v)):
    what the old unit makes of the reversed input, reversed. By induction over the steps, the
    changed model's tokens are those of the old model on the reversed clip, reversed, so that both
    have the same mean and the same logits. Now P = E + O with E = (P + J P J) / 2 even and
    O = (P - J P J) / 2 odd, hence E - O = J P J, and in the same way for b: at strength -1 the copy
    is the changed model. At strength 0 its relations are even, so that the change does nothing:
    it answers a clip and its reversal alike. Attention has P = softmax(A(u) + R), where the content
    A(u) obeys A(J u) = J A(u) J because queries and keys are made token by token, and softmax goes
    along rows: the odd part of R alone is scaled, and R replaced by J R J again gives J P(J u) J.
    The other gate forms are sums in place of the product.

    Tables, dense matrices and kernels are changed as parameters, so that the copy is an ordinary
    model. A softmaxed relation (`gqpe`) is not linear in its parameters; the copy has in its place
    a mean of the relation and of its reversal, weighted so.

    Parameters
    ----------
    model : PosMLPVideo
        Left as it is.
    strength : float

    Returns
    -------
    PosMLPVideo
        In the model's mode, on its device and in its precision.

    Raises
    ------
    ValueError
        For a strength that is no finite number, and a gate of the caller's own over time, whose
        relation is not known.
    """
    if isinstance(strength, bool) or not isinstance(strength, int | float):
        raise ValueError(f"strength={strength!r} must be a number, such as 1, 0 or -1")
    if not math.isfinite(strength):
        raise ValueError(f"strength={strength} must be finite, such as 1, 0 or -1")
    model = unwrapped(model)
    turned = copied(model)
    places = [place for place in units(turned) if "T" in place.branch]
    with torch.no_grad():
        for place in places:
            _turn(place.unit, place.stage, strength)
    return turned


def arrow_curve(
    model: PosMLPVideo,
    data: ClipSource,
    strengths: Sequence[float] = (1.0, 0.5, 0.0, -0.5, -1.0),
    *,
    batch_size: int = 64,
) -> pd.DataFrame:
    """Scores of `arrow_of_time(model, strength)` on the same clips, a row a strength.

    Columns strength, num_clips, and what `posmlp.train.metrics` gives: top1, and within_pair where
    classes have reversals. `model` is left as it is. Raises ValueError as `arrow_of_time`.
    """
    model = unwrapped(model)
    check_ours(model)
    rows = []
    device = next(model.parameters()).device
    for strength in strengths:
        turned = arrow_of_time(model, strength)
        with borrowed(turned), torch.no_grad():
            batches = data.batches(torch.arange(len(data)).split(batch_size))
            logits = torch.cat([turned(normalise(each.to(device))).cpu() for each in batches])
        scores = metrics(logits, data.labels, data.reverse_of)
        rows.append({"strength": float(strength), "num_clips": len(data), **scores})
    return pd.DataFrame(rows)


def _turn(unit: Any, stage: int, strength: float) -> None:
    kind = type(unit)
    if kind is ConvGate:
        unit.kernel.copy_(scaled_odd(unit.kernel, strength))
    elif kind in WITH_POSITIONS:
        _turn_positions(unit, unit.window[0], stage, strength)
    elif kind not in WITHOUT_RELATION:
        raise _unknown(unit, stage)
    if unit.token_bias is not None:
        by_frame = unit.token_bias.unflatten(0, (unit.window[0], -1))[None]
        unit.token_bias.copy_(scaled_odd(by_frame, strength)[0].flatten(0, 1))


def _turn_positions(unit: Any, frames: int, stage: int, strength: float) -> None:
    positions = unit.positions
    kind = type(positions)
    if kind in (LRPE, LRPEPlusDense):
        positions.table.copy_(scaled_odd(positions.table, strength))
    if kind in (Dense, LRPEPlusDense):
        by_frames = positions.weight.unflatten(2, (frames, -1)).unflatten(1, (frames, -1))
        turned = scaled_odd(by_frames, strength, (1, 3))
        positions.weight.copy_(turned.flatten(3, 4).flatten(1, 2))
    elif kind in (GQPE, CentredGQPE):
        unit.positions = Weighed(positions, reversed_gqpe(positions), strength)
    elif kind is Weighed:
        positions.strength *= strength
    elif kind is not LRPE:
        raise _unknown(positions, stage)


def scaled_odd(values: Tensor, strength: float, axes: tuple[int, ...] = (1,)) -> Tensor:
    """Values whose odd part under reversal of `axes` is multiplied; exact at 1 and -1."""
    return ((1 + strength) * values + (1 - strength) * values.flip(axes)) / 2


def reversed_gqpe(positions: GQPE) -> GQPE:
    """The GQPE whose scores are those of `positions` with the sign of time changed."""
    other = copy.deepcopy(positions)
    other.centers[:, -1].neg_()  # time is its last axis
    if other.spread == "full":
        other.spreads[:, -1, :].neg_()
        other.spreads[:, :, -1].neg_()
    return other


class Weighed(Relation):
    """A relation and its reversal, (1 + s) / 2 of the one and (1 - s) / 2 of the other."""

    def __init__(self, one: Relation, other: Relation, strength: float) -> None:
        nn.Module.__init__(self)
        self.window, self.num_groups, self.num_tokens = one.window, one.num_groups, one.num_tokens
        self.index = one.index
        self.one, self.other, self.strength = one, other, strength

    def bias_table(self) -> Tensor:
        """What both are made from, one after the other: (2 G, 2w-1, ...)."""
        return torch.cat([self.one.bias_table(), self.other.bias_table()])

    def finish(self, rows: Tensor, first: int = 0) -> Tensor:
        one, other = rows.chunk(2)
        parts = self.one.finish(one, first), self.other.finish(other, first)
        return ((1 + self.strength) * parts[0] + (1 - self.strength) * parts[1]) / 2


def _unknown(part: Any, stage: int) -> ValueError:
    return ValueError(
        f"the relation of {type(part).__name__} (stage {stage}) is not known, so that its odd part "
        "cannot be scaled; use a model whose gates are of posmlp.GATES"
    )
