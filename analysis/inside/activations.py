"""Named activations of one forward pass, read and changed by hooks on the model's own modules.

Shapes: B clips, T frames, H x W tokens of a stage, C channels, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from analysis.bias.maps import check_ours
from analysis.borrow import borrowed, unwrapped
from posmlp.gating import GatingUnit
from posmlp.model import Branch, PosMLPVideo, Stage

PARTS = ("norm", "fc1", "u", "v", "mix", "gated", "out")
MOST_MIB = 1024
Edit = Callable[[Tensor], Tensor]
Shape = tuple[int, ...]


class HookPoint(NamedTuple):
    """A named activation: where it stands (from 1, None where that does not apply), and its module.

    `form`: how the module has it. `image` (B T, C, H, W), `places` (B, T, H, W, C), `windows`
    (B, W, T, n, C), `tokens` as its branch mixes them, `flat` those with all windows in one axis,
    `vector` (B, C).
    """

    name: str
    module: nn.Module
    form: str
    stage: int | None = None
    block: int | None = None
    step: int | None = None
    branch: str | None = None
    part: str | None = None


def hook_points(model: PosMLPVideo) -> list[HookPoint]:
    """All named activations in the order of computation. Raises ValueError for another's model."""
    check_ours(model)
    found = [HookPoint("stem", model.stem, "image")]
    stages: Any = model.stages
    for s, stage in enumerate(stages, start=1):
        for b, block in enumerate(stage.blocks, start=1):
            for k, step in enumerate(block.steps, start=1):
                name = f"stage{s}.block{b}.step{k}"
                for axes, branch in step.items():
                    for part, (module, form) in _parts(branch).items():
                        where = (s, b, k, axes, part)
                        found.append(HookPoint(f"{name}.{axes}.{part}", module, form, *where))
                found.append(HookPoint(name, step, "windows", s, b, k))
        found.append(HookPoint(f"stage{s}", stage, "places", s))
    head = (HookPoint("pooled", model.head, "vector"), HookPoint("logits", model.head, "vector"))
    return [*found, *head]


def _parts(branch: Branch) -> dict[str, tuple[nn.Module, str]]:
    """The modules of PARTS; an own gate shows no u, v and mix, an own branch its ends alone."""
    if not isinstance(branch, Branch):
        return {"norm": (branch.norm, "windows"), "out": (branch, "windows")}
    unit, found = branch.gate, {"norm": (branch.norm, "tokens"), "fc1": (branch.fc1, "tokens")}
    if isinstance(unit, GatingUnit):
        found["u"] = (unit.u, "flat")
        if unit.form != "mix":
            found["v"] = (unit.v, "flat")
        found["mix"] = (unit.biased, "flat")
    return {**found, "gated": (unit, "flat"), "out": (branch, "windows")}


def chosen_points(model: PosMLPVideo, where: str) -> list[HookPoint]:
    """The points whose names fit `where`, a shell pattern. Raises ValueError for none."""
    points = hook_points(model)
    found = [point for point in points if fnmatchcase(point.name, where)]
    if not found:
        names = [point.name for point in points]
        raise ValueError(
            f"no activation fits {where!r}; names are {', '.join(names[:9])}, ..., "
            f"{', '.join(names[-4:])}, and * stands for any letters"
        )
    return found


def activations(
    model: PosMLPVideo,
    clips: Tensor,
    where: str = "*",
    edit: Mapping[str, Edit] | None = None,
    *,
    max_memory_mib: int = MOST_MIB,
) -> dict[str, Tensor]:
    """Named activations of one forward pass over `clips`, which `edit` may change on the way.

    Names, in the order of computation; stages, blocks and steps count from 1:

    - `stem`; `stage2`, a stage's output; `stage2.block1.step1`, after the residual sum;
    - `stage2.block1.step1.T.PART`, of the branch over T, S or ST, with PART one of `norm`, `fc1`
      (before GELU), `u`, `v`, `mix` (mix(u) with its token bias: what v gates), `gated`, and `out`
      (after fc2: what the step adds). A gate of form `mix` has no v; a caller's own gate that is no
      GatingUnit has no u, v and mix;
    - `pooled` and `logits`.

    Parameters
    ----------
    model : PosMLPVideo
        On any device; handed back in the mode, with the hooks and gradients that it had. It is run
        in eval mode and without gradients.
    clips : Tensor
        What the model takes, (B, 3, T, H, W), on its device.
    where : str
        A shell pattern over names: `"stage2.*.T.*"`, `"*.mix"`.
    edit : mapping of str to function, optional
        Patterns with functions from an activation to one of the same shape and type, which takes
        its place in all that follows. The returned activation is the changed one.
    max_memory_mib : int
        Bound on what is kept; nothing is returned if it is passed.

    Returns
    -------
    dict
        Tensors by name: (B, T, H, W, C) with the H and W of the stage, however the model divides
        it into windows; (B, C) for `pooled`, and (B, K) for `logits`.

    Raises
    ------
    ValueError
        If a pattern fits no name, an edit gives another shape or type, or the bound is passed.
    """
    model = unwrapped(model)
    kept = chosen_points(model, where)
    changes: dict[str, Edit] = {}
    for pattern, change in (edit or {}).items():
        for name in (point.name for point in chosen_points(model, pattern)):
            changes[name] = _then(changes[name], change) if name in changes else change
    store = Store(max_memory_mib * 2**20)
    with borrowed(model), torch.no_grad():
        run_hooked(model, clips, kept, changes, store.keep)
    return {point.name: store.kept[point.name] for point in kept}


def _then(first: Edit, second: Edit) -> Edit:
    return lambda x: second(first(x))


class Store:
    """Activations by name, up to a number of bytes."""

    def __init__(self, max_bytes: int) -> None:
        self.kept: dict[str, Tensor] = {}
        self.room = max_bytes
        self.max_bytes = max_bytes

    def keep(self, name: str, x: Tensor) -> None:
        self.room -= x.numel() * x.element_size()
        if self.room < 0:
            raise ValueError(
                f"the activations take more than {self.max_bytes / 2**20:g} MiB, reached at "
                f"{name}; choose fewer names with where=, give fewer clips at once, or raise "
                "max_memory_mib"
            )
        self.kept[name] = x.detach().clone(memory_format=torch.contiguous_format)


def run_hooked(
    model: PosMLPVideo,
    clips: Tensor,
    kept: Iterable[HookPoint],
    changes: Mapping[str, Edit],
    keep: Callable[[str, Tensor], None],
    run: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """The logits of one pass that changes some activations and gives others to `keep`, by name.

    Both see (B, T, H, W, C). The model must be borrowed already. `run`: in place of the model.
    """
    names = {point.name for point in kept}
    frames = clips.shape[2] if clips.dim() == 5 else 1
    shapes: dict[int | None, Shape] = {None: (len(clips), frames)}
    with ExitStack() as stack:
        stages: Any = model.stages
        for s, stage in enumerate(stages, start=1):

            def note(_module: nn.Module, inputs: tuple[Tensor], s: int = s) -> None:
                shapes[s] = tuple(inputs[0].shape)

            stack.callback(stage.register_forward_pre_hook(note).remove)
        for point in hook_points(model):
            if point.name not in names and point.name not in changes:
                continue
            see = _See(model, point, shapes, changes.get(point.name), point.name in names, keep)
            if point.name == "pooled":
                handle = point.module.register_forward_pre_hook(see.before)
            else:
                handle = point.module.register_forward_hook(see.after)
            stack.callback(handle.remove)
        return (run or model)(clips)


def run_from(model: PosMLPVideo, features: Sequence[Tensor], stage: int) -> Tensor:
    """The logits, from `forward_features` of what comes before that stage (from 1; one more: none).

    As the model's own forward goes on from there.
    """
    x = features[stage - 1]
    for i in range(stage - 1, len(model.stages)):
        x = model.stages[i](model.downsamples[i - 1](x) if i else x)
    return model.head(model.norm(x).flatten(1, -2).mean(dim=1))


@dataclass(frozen=True)
class _See:
    """The hook of one point."""

    model: PosMLPVideo
    point: HookPoint
    shapes: Mapping[int | None, Shape]
    change: Edit | None
    is_kept: bool
    keep: Callable[[str, Tensor], None]

    def before(self, _module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (self.after(_module, inputs, inputs[0]),)

    def after(self, _module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        shape = self.shapes[self.point.stage]
        x = as_places(self.model, self.point, output, shape)
        if self.change is not None:
            new = self.change(x)
            if not isinstance(new, Tensor) or (new.shape, new.dtype) != (x.shape, x.dtype):
                raise ValueError(
                    f"the edit of {self.point.name} gave {_described(new)}; it must give "
                    f"{_described(x)}"
                )
            x, output = new, as_module_has_it(self.model, self.point, new, shape)
        if self.is_kept:
            self.keep(self.point.name, x)
        return output


def _described(x: object) -> str:
    return f"{tuple(x.shape)} of {x.dtype}" if isinstance(x, Tensor) else type(x).__name__


def as_places(model: PosMLPVideo, point: HookPoint, x: Tensor, shape: Shape) -> Tensor:
    """A module's output as (B, T, H, W, C); a vector as it is. `shape`: of the stage's input."""
    if point.form == "image":
        return x.permute(0, 2, 3, 1).unflatten(0, shape[:2])
    if point.form in ("vector", "places"):
        return x
    stage, branch = _owners(model, point)
    if point.form == "flat":
        x = x.unflatten(0, _leading(stage, branch, shape))
    if point.form in ("flat", "tokens"):
        x = branch.from_mixed_axis(x)
    return stage.from_windows(x, shape)


def as_module_has_it(model: PosMLPVideo, point: HookPoint, x: Tensor, shape: Shape) -> Tensor:
    """The inverse of `as_places`."""
    if point.form == "image":
        return x.flatten(0, 1).permute(0, 3, 1, 2)
    if point.form in ("vector", "places"):
        return x
    stage, branch = _owners(model, point)
    x = stage.to_windows(x)
    if point.form in ("flat", "tokens"):
        x = branch.to_mixed_axis(x)
    return x.flatten(0, -3) if point.form == "flat" else x


def _owners(model: PosMLPVideo, point: HookPoint) -> tuple[Stage, Any]:
    """The point's stage, and its branch if it is of one."""
    stages: Any = model.stages
    stage = stages[(point.stage or 1) - 1]
    if point.branch is None:
        return stage, None
    step = stage.blocks[(point.block or 1) - 1].steps[(point.step or 1) - 1]
    return stage, step[point.branch]


def unit_of(model: PosMLPVideo, name: str) -> nn.Module:
    """The gating unit of a branch by name, such as `stage1.block1.step1.T`."""
    return next(p.module for p in hook_points(model) if p.name == f"{name}.gated")


def _leading(stage: Stage, branch: Branch, shape: Shape) -> Shape:
    """The axes before (N, C) of what a branch mixes."""
    return tuple(
        branch.to_mixed_axis(stage.to_windows(torch.empty(*shape[:4], 1, device="meta"))).shape[:-2]
    )
