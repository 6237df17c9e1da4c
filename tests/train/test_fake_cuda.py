"""What a GPU would be asked for, on a fake one: see `fake_cuda.py`.

All checks run in one process that meets the stand-in, in their order, and a test tells of each.
PyAV, decord, pebble and captum cannot be imported there: what trains generated clips needs none.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from fake_cuda import FakeCuda, environment, fake_gpus, lacking, on_gpu
from torch import Tensor, nn

from posmlp.config_checks import GATE_FORMS, GATE_NAMES

ROOT = Path(__file__).parents[2]
ABSENT = ("av", "decord", "pebble", "captum")
LAYOUTS = ("T+S", "T>S", "ST", "S>T+ST", "T")
LAUNCHES = {"at once": 409, "by themselves": 597}
"""Of a training step of two seeds of `small()`, AdamW included; see `count_is_near`."""
ONE_STAGE = {"depths": (1,), "dims": (8,), "windows": 4, "downsample": []}
Check = Callable[[FakeCuda, Path], None]
CHECKS: dict[str, Check] = {}


def check(function: Check) -> Check:
    CHECKS[function.__name__] = function
    return function


def small(**changes: Any) -> Any:
    from posmlp.presets import resolve

    shape = {"depths": (1, 1), "dims": (8, 16), "num_groups": 2, "windows": (4, 2)}
    size = {"num_frames": 4, "image_size": 16, "drop_path": 0.1}
    return resolve("toy", **(shape | size | changes))


def recipe(**changes: Any) -> Any:
    from posmlp.config import TrainConfig

    few = {"num_clips": 16, "batch_size": 8, "num_val_clips": 4, "num_test_clips": 4}
    return TrainConfig(**({"epochs": 1, "warmup_epochs": 0} | few | changes))


@contextmanager
def no_waits(gpu: FakeCuda) -> Iterator[None]:
    gpu.clear()
    yield
    assert not gpu.waits, f"the host waits: {dict(gpu.waits)}"


@check
def the_runners_path_of_a_cell(gpu: FakeCuda, folder: Path) -> None:
    """First, as CUDA is not initialised yet when the runner asks about memory."""
    from ablations.run import run

    model = {k: v for k, v in small().to_dict().items() if k != "num_classes"}
    grid = {"base": {**model, "train": recipe().to_dict()}, "axes": {"drop_path": [0, 0.1]}}
    table = run({**grid, "seeds": 2}, folder / "r", device="cuda", progress=False)
    assert list(table.reason) == [None] * 4
    assert set(table.together) == {4}
    assert set(table.precision) == {"bfloat16"}
    assert set(table.repeats) == {"may differ in bits"}


def steps(gpu: FakeCuda, vectorised: bool, precision: str, **changes: Any) -> int:
    """A training step and a scoring of two seeds, which must not wait; launches of the step."""
    from posmlp.config import TrainConfig
    from posmlp.train.optimisation import Optimiser, relation_parameters
    from posmlp.train.population import Population

    config, autocast = small(**changes), precision == "bfloat16"
    both = Population(config, [0, 1], "cuda", vectorised)
    relations = relation_parameters(both.model)
    optimiser = Optimiser(both.parameters, [TrainConfig()] * 2, relations)
    clips = torch.zeros(2, 3, config.in_channels, config.num_frames, *config.size, device="cuda")
    labels = torch.zeros(2, 3, dtype=torch.int64, device="cuda")
    scales = torch.ones(2, len(both._steps), 3, device="cuda")
    with no_waits(gpu):
        gradients, loss, _ = both.gradients(clips, labels, scales, autocast=autocast)
        optimiser.step(gradients, 0.5)
        launches = gpu.launches
        logits = both.logits(clips[0], autocast=autocast)
    assert logits.shape == (2, 3, config.num_classes)
    assert {logits.device.type, loss.device.type} == {"cuda"}
    return launches


def _every_gate() -> None:
    ways = zip(
        GATE_NAMES,
        itertools.cycle(GATE_FORMS),
        itertools.cycle(LAYOUTS),
        itertools.cycle(("bfloat16", "float32")),
        itertools.cycle((True, True, True, False, True)),
        strict=False,
    )
    for gate, form, layout, precision, vectorised in ways:
        changes = {"gate": gate, "gate_form": form, "layout": layout, **ONE_STAGE}

        def trains(
            gpu: FakeCuda, _: Path, how: Any = (vectorised, precision), changes: Any = changes
        ) -> None:
            steps(gpu, *how, **changes)

        CHECKS[f"{gate}, {form}, {layout}, {precision}, {vectorised}"] = trains


_every_gate()


@check
def a_step_launches_what_it_did(gpu: FakeCuda, folder: Path) -> None:
    found = {
        "at once": steps(gpu, True, "bfloat16"),
        "by themselves": steps(gpu, False, "bfloat16"),
    }
    told = {k: (n, LAUNCHES[k]) for k, n in found.items() if abs(n / LAUNCHES[k] - 1) > 0.1}
    assert not told, f"launches now, and stored: {told}"


@check
def clipping_takes_few_launches(gpu: FakeCuda, folder: Path) -> None:
    from posmlp.train.optimisation import clip_gradients

    gradients = {str(i): torch.zeros(2, 3, device="cuda") for i in range(100)}
    largest = torch.ones(2, device="cuda")
    with no_waits(gpu):
        clip_gradients(gradients, largest)
    assert gpu.launches < 20


@check
def presets_compute(gpu: FakeCuda, folder: Path) -> None:
    """A block of the first two stages of the released video and image models."""
    from posmlp.model import create_model
    from posmlp.presets import resolve

    for name, dims in (("s16", (72, 144)), ("image-t", (96, 192))):
        config = resolve(name, depths=(1, 1), dims=dims)
        model = create_model(config).to("cuda")
        clips = torch.zeros(1, 3, config.num_frames, *config.size, device="cuda")
        with no_waits(gpu), torch.autocast("cuda", torch.bfloat16):
            model(clips).float().sum().backward()
            features = model.forward_features(clips)
        assert {each.device.type for each in features} == {"cuda"}


class Planted(nn.Module):
    """A gate with a tensor that is left on the CPU."""

    def __init__(self, dim: int, window: Any, num_groups: int = 1) -> None:
        super().__init__()
        self.forgotten = [torch.ones(dim)]
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, uv: Tensor) -> Tensor:
        u, v = uv.chunk(2, dim=-1)
        return u * self.forgotten[0] * v * self.weight


@check
def a_forgotten_tensor_fails(gpu: FakeCuda, folder: Path) -> None:
    for vectorised in (True, False):
        with pytest.raises(RuntimeError, match="device"):
            steps(gpu, vectorised, "float32", gate=Planted)


@check
def graphs_are_of_our_modules_and_of_populations_alone(gpu: FakeCuda, folder: Path) -> None:
    from posmlp.train import population

    with mock.patch.object(population, "RECORDS", True):
        made = {
            "ours": population.Population(small(), [0], "cuda"),
            "a user's": population.Population(small(gate=Planted), [0], "cuda"),
            "prepared": population.Population(small(), [0], "cuda", prepare=lambda model: None),
            "one by one": population.Population(small(), [0], "cuda", vectorised=False),
        }
    assert [name for name, each in made.items() if each._recorded is not None] == ["ours"]


@check
def randaugment_does_not_wait(gpu: FakeCuda, folder: Path) -> None:
    from posmlp.data.randaugment import OPERATIONS, Operation, apply_operation

    frames = torch.zeros(4, 3, 16, 16, dtype=torch.uint8, device="cuda")
    with no_waits(gpu):
        changed = [apply_operation(frames, Operation(name, 0.7, 1)) for name in OPERATIONS]
    assert all(map(on_gpu, changed))


@contextmanager
def epochs_that_do_not_wait(gpu: FakeCuda) -> Iterator[list[int]]:
    """Within the block no epoch of `fit` waits in its steps; the clips' bytes sent in each."""
    from posmlp.train.loop import Training

    train_epoch, sent = Training._train_epoch, []

    def watched(*args: Any) -> None:
        with no_waits(gpu):
            train_epoch(*args)
        sent.append(gpu.sent[torch.uint8])

    with mock.patch.object(Training, "_train_epoch", watched):
        yield sent


@check
def fit_with_all_its_parts(gpu: FakeCuda, folder: Path) -> None:
    """Variants, augmentation, averaged and best weights, micro-batches; stopped, and resumed."""
    from posmlp.train.fitting import fit
    from posmlp.train.loop import Training
    from posmlp.train.population import Population

    moved = {"flip": "labels", "erase": 0.9, "brightness": 0.2, "shift": 0.2, "rand_ops": 1}
    train = recipe(**moved, mixup=0.5, cutmix=0.5, ema_decay=0.9, keep="best")
    variants = {"slow": {"lr": 1e-4}, "still": {"drop_path": 0.0}}
    out = folder / "run"

    def go() -> Any:
        how = {"variants": variants, "micro_batches": 2, "progress": False}
        return fit(small(), train, "moving-digits", [0, 1], out, device="cuda", **how)

    step, count = Training._step, itertools.count()

    def stopped(*args: Any) -> Any:
        if next(count) == 1:  # in the middle of the epoch
            raise KeyboardInterrupt
        return step(*args)

    with mock.patch.object(Training, "_step", stopped), pytest.raises(KeyboardInterrupt):
        go()
    logits = Population.logits
    with (
        epochs_that_do_not_wait(gpu) as sent,
        mock.patch.object(Population, "logits", autospec=True, side_effect=logits) as scored,
        mock.patch.object(torch.cuda, "synchronize") as waited,
    ):
        rows = go()
    assert [call.args for call in waited.call_args_list] == [(torch.device("cuda"),)]
    assert sent == [0]  # the clips are there already
    assert {call.kwargs["autocast"] for call in scored.call_args_list} == {True}
    assert len(rows) == 4
    assert len(list(out.glob("model-*.safetensors"))) == 4
    about = json.loads((out / "environment.json").read_text())
    assert about["precision"] == "bfloat16"


@check
def other_ways_of_computing(gpu: FakeCuda, folder: Path) -> None:
    """Checkpointed activations; bits that repeat, in float32; clips that are read, not held."""
    from posmlp.data.sources import HeldClips, open_clips
    from posmlp.train.fitting import fit

    train = recipe(deterministic=True, precision="float32")
    clips = [open_clips("moving-digits", s, small(), train=train) for s in ("train", "test")]
    set_to = torch.use_deterministic_algorithms
    with (
        mock.patch.object(HeldClips, "held_on", lambda self, _: self),
        mock.patch.object(torch, "use_deterministic_algorithms", side_effect=set_to) as asked,
        epochs_that_do_not_wait(gpu) as sent,
    ):
        how = {"device": "cuda", "progress": False, "checkpoint_activations": True}
        fit(small(), train, tuple(clips), [0], **how)
    assert [call.args for call in asked.call_args_list] == [(True,), (False,)]
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert sent == [16 * 4 * 16 * 16 * 3]


@check
def scoring_with_views_and_predicting(gpu: FakeCuda, folder: Path) -> None:
    import numpy as np

    from posmlp.clip_scores import ClipScores
    from posmlp.data.sources import open_clips
    from posmlp.model import create_model
    from posmlp.predict import TrainedModel, _probabilities
    from posmlp.train import scoring

    model = create_model(small())
    source = open_clips("moving-digits", "test", small(), train=recipe())

    class Several:
        """The same clips at each view and crop."""

        def __getattr__(self, name: str) -> Any:
            return getattr(source, name)

        def __len__(self) -> int:
            return len(source)

        def batches(self, indices: Any, **_: Any) -> Any:
            return source.batches(indices)

    several: Any = Several()
    gpu.clear()
    with mock.patch.object(scoring, "predict", side_effect=scoring.predict) as asked:
        logits, _ = scoring.logits_of(model, several, clips=2, crops=3, batch_size=2, device="cuda")
    assert asked.call_args.kwargs["autocast"]  # as in training
    assert gpu.waits == {"copied from the host": gpu.waits["copied from the host"]} | {
        "copied to the host": 6  # once a view and crop
    }
    assert gpu.operators["convolution"]
    ClipScores.of("x", logits, source).metrics()
    trained = TrainedModel(model, source.classes, None, 0)  # type: ignore[arg-type]
    assert _probabilities(trained, [np.zeros((4, 16, 16, 3), np.uint8)] * 2).device.type == "cpu"


@check
def attribution_and_interventions(gpu: FakeCuda, folder: Path) -> None:
    from analysis.attribution.attribution import attribute
    from analysis.attribution.faithfulness import perturbation_curves
    from analysis.interventions.intervene import intervene
    from analysis.interventions.interventions import Intervention, knock_outs
    from posmlp.data.sources import open_clips
    from posmlp.model import create_model

    sys.modules.pop("captum")  # it could not be imported so far, and was not asked for
    model = create_model(small(**ONE_STAGE)).to("cuda")
    source = open_clips("moving-digits", "test", small(), train=recipe())
    clips = torch.zeros(2, 3, 4, 16, 16)
    clips[:, :, 1] = 1.0
    few = {"integrated_gradients": {"num_steps": 2}, "smooth_grad": {"num_samples": 2}}
    for method in ("integrated_gradients", "grad_cam", "smooth_grad", "saliency", "random"):
        maps = attribute(model, clips, 1, method, **few.get(method, {}))
        assert maps.values.device.type == "cpu"
    perturbation_curves(model, clips, maps, num_steps=1)
    kinds = [
        Intervention("shuffle", branch="T", seed=0),
        Intervention("truncate", branch="S", radius=1),
        Intervention("symmetrise", branch="T"),
        knock_outs(model)[0],
    ]
    assert len(intervene(model, source, kinds)) == len(kinds)


@check
def what_is_inside(gpu: FakeCuda, folder: Path) -> None:
    sys.modules.pop("av")  # pages read videos
    import numpy as np

    import analysis
    from analysis.page.inside import _inputs
    from posmlp import clip_scores
    from posmlp.data.sources import open_clips
    from posmlp.model import create_model
    from posmlp.predict import TrainedModel

    model = create_model(small()).to("cuda")
    source = open_clips("moving-digits", "test", small(), train=recipe())
    held: Any = mock.Mock(clips=torch.zeros(2, 4, 16, 16, 3, dtype=torch.uint8))
    clips, name = _inputs(model, held), "stage2.block1.step1.T.out"
    with pytest.warns(UserWarning, match="nothing to move"):  # what comes back is zeros
        analysis.patch(model, clips, "mean", name)
    labels = {"class": [np.arange(4) % 2] * 3}
    assert analysis.probe(model, source, source, source, "stage2", labels)["n"].item() == 4
    assert len(analysis.tuning(model, "stage2", num_directions=2, speeds=(1.0,))) == 2
    assert len(analysis.exemplars(model, clips, name.removesuffix(".out"), 0)) == 2 * 4
    frames = mock.Mock(frames=np.zeros((4, 16, 16, 3), np.uint8))
    with mock.patch.object(clip_scores, "load_clip", return_value=frames):
        trained = TrainedModel(model, source.classes, None, 0)  # type: ignore[arg-type]
        found = clip_scores.clip_features(trained, "x.mp4", num_views=2)
        assert found["features"].shape == (2, 16)


@check
def times_are_of_the_device_that_is_timed(gpu: FakeCuda, folder: Path) -> None:
    from analysis.speed.speed import _timed
    from posmlp.data.speed import _now

    for index in (0, 1):  # the stand-in takes a millisecond more on the second GPU
        assert _timed(lambda: None, torch.device("cuda", index)) == pytest.approx((1 + index) / 1e3)
    with mock.patch.object(torch.cuda, "synchronize") as waited:
        _now(torch.device("cuda", 1))
    waited.assert_called_once_with(torch.device("cuda", 1))


@check
def memory_that_runs_out_in_a_recording_is_told_as_such(gpu: FakeCuda, folder: Path) -> None:
    from posmlp.train.execution import Recorded

    class Recording:
        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None:
            raise RuntimeError("operation failed due to a previous error during capture")

    asked = itertools.count()

    def function(clips: torch.Tensor) -> torch.Tensor:
        if next(asked) == 3:  # it has run three times before
            raise torch.OutOfMemoryError("CUDA out of memory")
        return clips

    parts = ("CUDAGraph", "Stream", "stream", "current_stream")
    with ExitStack() as stack:
        for name in parts:
            stack.enter_context(mock.patch.object(torch.cuda, name, mock.MagicMock()))
        stack.enter_context(mock.patch.object(torch.cuda, "graph", return_value=Recording()))
        stack.enter_context(pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"))
        Recorded(function, [torch.zeros(2, device="cuda")])


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What is wrong on the fake GPU, by check."""
    if why := lacking():
        pytest.skip(f"there can be no fake GPU here: {why}")
    folder = tmp_path_factory.mktemp("gpu")
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, __file__, str(folder)],
        env=environment(folder) | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(map(json.loads, done.stdout.splitlines()))


@pytest.mark.parametrize("name", CHECKS)
def test_on_a_fake_gpu(found: dict[str, str], name: str) -> None:
    assert found[name] == "", found[name]


def main(folder: Path, names: list[str]) -> None:
    from posmlp.train import population

    sys.modules.update(dict.fromkeys(ABSENT))
    population.RECORDS = False  # a graph is the driver's own: launches are counted one by one
    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for name in names or CHECKS:
        fault, began = "", time.process_time()
        try:
            with fake_gpus() as gpu:
                CHECKS[name](gpu, folder / f"{len(name)}")
        except Exception:
            fault = traceback.format_exc()[-3000:]
        print(f"{time.process_time() - began:.1f} s: {name}")
        answers.write(json.dumps([name, fault]) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
