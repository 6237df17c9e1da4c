"""`python -m analysis check_gpu`: on the day that there is a GPU, what works on it and how fast.

Each check runs in a process of its own, which is ended at the check's time limit, and is a line of
OUT/check_gpu.jsonl as soon as it has ended: check, ok, seconds, what it found, or why it failed.
All of them take less than eight minutes on one GPU. On a CPU they take small sizes and about one
minute; what a CPU has not is skipped and says so.

This file imports no more than Python's own library before a check is run, so that whatever an
image lacks is one check's failure.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

Found = dict[str, Any]
Run = Callable[[str, Path], Found]
ROOT = Path(__file__).parents[2]
MOST_OFF = {"float32": 2e-3, "trained": 5e-2}
"""Largest difference, relative to the largest value: of a model in float32, and after training."""


class Skip(Exception):
    """The check needs what this device has not."""


def _small(**changes: Any) -> Any:
    from posmlp.presets import resolve

    shape = {"depths": (1, 1), "dims": (8, 16), "num_groups": 2, "windows": (4, 2)}
    return resolve("toy", **(shape | {"num_frames": 4, "image_size": 16} | changes))


def _recipe(**changes: Any) -> Any:
    from posmlp.config import TrainConfig

    sizes = {"num_clips": 64, "batch_size": 16, "num_val_clips": 28, "num_test_clips": 28}
    return TrainConfig(**({"epochs": 2, "warmup_epochs": 0, "lr": 1e-3} | sizes | changes))


def _fit(device: str, out: Path, seeds: Sequence[int] = (0,), **options: Any) -> list[Any]:
    from posmlp.train.fitting import fit

    train = options.pop("train", None) or _recipe()
    rows = fit(_small(), train, "moving-digits", seeds, out, device=device, progress=False,
               **options)  # fmt: skip
    bad = [row for row in rows if not 0 < row["train_loss"] < 100]
    if bad:
        raise ValueError(f"the loss of {bad[0]} is none")
    return rows


def _weights(run: Path, seed: int = 0) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(run / f"model-seed{seed}.safetensors")


def _most_off(found: Mapping[str, Any], expected: Mapping[str, Any]) -> float:
    """The largest difference of any tensor, over the largest value of all."""
    largest = max(float(each.double().abs().max()) for each in expected.values())
    offs = [found[k].double().cpu() - v.double().cpu() for k, v in expected.items()]
    return max(float(each.abs().max()) for each in offs) / max(largest, 1e-30)


def _at_most(off: float, limit: float) -> float:
    if not off <= limit:
        raise ValueError(f"the largest difference is {off:.2g} of the largest value, over {limit}")
    return off


# ---- what is here ------------------------------------------------------------------------------


def imports(device: str, folder: Path) -> Found:
    """Versions, the device, and what of our packages cannot be imported."""
    import torch

    from posmlp.train.environment import environment

    names = ("posmlp.cli", "posmlp.train.fitting", "ablations.cli", "ablations.run")
    for name in names:
        import_module(name)
    about = environment(device)
    if about["gpu"]:
        torch.zeros(1, device=device)
        about["memory_gb"] = torch.cuda.get_device_properties(device).total_memory / 1e9
    return about


# ---- end to end --------------------------------------------------------------------------------


def fit_one(device: str, folder: Path) -> Found:
    """Train one seed, score its model with another command's code, and predict."""
    from posmlp.train.scoring import evaluate

    rows = _fit(device, folder / "run")
    model = folder / "run/model-seed0.safetensors"
    scores = evaluate(model, train=_recipe(), device=device)
    if abs(scores["top1"] - rows[-1]["test_top1"]) > 0.1:
        raise ValueError(f"evaluate gives top1={scores['top1']}, and fit {rows[-1]['test_top1']}")
    return {"seconds_an_epoch": rows[-1]["seconds"]}


def fit_four(device: str, folder: Path) -> Found:
    """Four seeds as one population."""
    return {"seconds_an_epoch": _fit(device, folder / "run", range(4))[-1]["seconds"]}


def fit_variants(device: str, folder: Path) -> Found:
    """Variants, with all augmentations but RandAugment, and averaged and best weights."""
    augmented = _recipe(flip="labels", erase=0.5, mixup=0.5, cutmix=0.5, ema_decay=0.9, keep="best")
    variants = {"slow": {"lr": 1e-4}, "deep": {"drop_path": 0.2}}
    return {"rows": len(_fit(device, folder / "run", (0, 1), train=augmented, variants=variants))}


def fit_micro_batches(device: str, folder: Path) -> Found:
    """A batch in four parts, activations computed again."""
    _fit(device, folder / "run", (0, 1), micro_batches=4)
    _fit(device, folder / "other", checkpoint_activations=True)
    return {}


def _grid(folder: Path, **changes: Any) -> list[str]:
    model = {k: v for k, v in _small().to_dict().items() if k != "num_classes"}
    train = _recipe(**changes.pop("train", {})).to_dict()
    grid = {"base": {**model, "train": train}, "axes": {"gate": ["lrpe", "conv"]}, "seeds": 2}
    (folder / "grid.yaml").write_text(json.dumps(grid | changes))  # JSON is YAML
    return ["run", str(folder / "grid.yaml"), "--out", str(folder / "grid"), "--quiet"]


def _results(folder: Path) -> list[Found]:
    return [json.loads(p.read_text()) for p in folder.glob("grid/cells/*/*/result.json")]


def _ablations(words: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "ablations", *words], cwd=ROOT, **options)


def run_two_workers(device: str, folder: Path) -> Found:
    """A grid of two gates and two seeds in two worker processes."""
    code = _ablations([*_grid(folder), "--workers", "2", "--device", device]).wait()
    done = [result["status"] for result in _results(folder)]
    if code or done != ["done"] * 4:
        raise ValueError(f"ablations run ended with code {code}, and {done}")
    return {"together": [result["together"] for result in _results(folder)]}


def run_a_death(device: str, folder: Path) -> Found:
    """A worker is killed in its training; the grid ends, and goes on to its end when told to."""
    if not Path("/proc").is_dir():
        raise Skip("workers are found through /proc")
    words = [*_grid(folder, train={"epochs": 20}), "--workers", "2", "--device", device]
    runner = _ablations(words)
    while not any(folder.glob("grid/**/state.safetensors")):
        if runner.poll() is not None:
            raise ValueError("the grid ended before a worker could be killed")
        time.sleep(0.05)
    children = Path(f"/proc/{runner.pid}/task").glob("*/children")
    os.kill(int(next(filter(None, (p.read_text() for p in children))).split()[0]), signal.SIGKILL)
    code = runner.wait()
    failures = {result["failure"] for result in _results(folder)} - {None}
    again = _ablations([*words, "--retry-failed"]).wait()
    done = [result["status"] for result in _results(folder)]
    if (code, again) != (1, 0) or failures != {"worker killed"} or done != ["done"] * 4:
        raise ValueError(f"codes {code} and {again}, failures {failures}, at the end {done}")
    return {}


# ---- numbers -----------------------------------------------------------------------------------


def every_gate(device: str, folder: Path) -> Found:
    """Logits and gradients of every gate in float32, beside float64 on the CPU."""
    import torch

    from posmlp.config_checks import GATE_FORMS, GATE_NAMES
    from posmlp.model import create_model

    torch.backends.cudnn.allow_tf32 = False
    found = {}
    for i, gate in enumerate(GATE_NAMES):
        torch.manual_seed(i)
        model = create_model(_small(gate=gate, gate_form=GATE_FORMS[i % len(GATE_FORMS)]))
        clips, made = torch.randn(4, 3, 4, 16, 16), []
        for where, dtype in (("cpu", torch.float64), (device, torch.float32)):
            model.zero_grad(set_to_none=True)
            logits = model.to(where, dtype)(clips.to(where, dtype))
            logits.square().sum().backward()
            named = {k: p.grad for k, p in model.named_parameters() if p.grad is not None}
            made.append({"logits": logits.detach()} | {k: g.cpu() for k, g in named.items()})
        found[gate] = _at_most(_most_off(made[1], made[0]), MOST_OFF["float32"])
    return {"most_off": found}


def population_and_alone(device: str, folder: Path) -> Found:
    """A seed in a population of two, and alone, in float32."""
    train = _recipe(precision="float32", epochs=1)
    _fit(device, folder / "both", (0, 1), train=train)
    _fit(device, folder / "alone", (1,), train=train)
    off = _most_off(_weights(folder / "both", 1), _weights(folder / "alone", 1))
    return {"most_off": _at_most(off, MOST_OFF["trained"])}


def graph_and_launches(device: str, folder: Path) -> Found:
    """Two batches' gradients and statistics by one CUDA graph, and launched one by one."""
    if device == "cpu":
        raise Skip("a CPU has no CUDA graphs")
    import torch

    from analysis.speed.contenders import population

    clips = torch.randn(2, 3, 8, 3, 4, 16, 16, device=device)
    labels = torch.arange(24, device=device).view(3, 8) % 14
    made: list[dict[str, Any]] = []
    for recorded in (False, True):
        both = population(_small(), 3, device, True, recorded=recorded)
        found: dict[str, Any] = {}
        for i, batch in enumerate(clips):  # a graph's gradients are overwritten by the next batch
            gradients, _, _ = both.gradients(batch, labels)
            found |= {f"{k}, batch {i}": gradient.clone() for k, gradient in gradients.items()}
        made.append(found | both.statistics)
    return {"most_off": _at_most(_most_off(made[1], made[0]), MOST_OFF["float32"])}


def same_run_twice(device: str, folder: Path) -> Found:
    """Deterministic runs must agree to the bit; of others it is told whether they do."""
    found = {}
    for asked in (True, False):
        runs = [folder / f"{asked}{i}" for i in range(2)]
        for run in runs:
            _fit(device, run, (0, 1), train=_recipe(deterministic=asked))
        found[f"off, deterministic={asked}"] = _most_off(*map(_weights, runs))
    _at_most(found["off, deterministic=True"], 0.0)
    return found


def kill_and_resume(device: str, folder: Path) -> Found:
    """A training that SIGTERM stopped goes on to the bits of one that ran through."""
    train = _recipe(deterministic=True, epochs=12)
    _fit(device, folder / "through", train=train)
    file = folder / "config.yaml"
    file.write_text(json.dumps(_small().to_dict() | train.to_dict()))  # JSON is YAML
    command = [sys.executable, "-m", "posmlp", "train", "--config", str(file), "--device", device]
    command += ["--out", str(folder / "run")]
    process = subprocess.Popen(command, cwd=ROOT)
    while process.poll() is None and not (folder / "run/state.safetensors").exists():
        time.sleep(0.02)
    process.terminate()
    stopped = process.wait()
    if stopped not in (0, 75) or subprocess.run(command, cwd=ROOT, check=False).returncode:
        raise ValueError(f"the stopped training ended with {stopped}, or did not go on")
    off = _most_off(_weights(folder / "run"), _weights(folder / "through"))
    return {"stopped_in_time": stopped == 75, "most_off": _at_most(off, 0.0)}


# ---- time --------------------------------------------------------------------------------------


def step_times(device: str, folder: Path) -> Found:
    """A training step of many seeds: as one CUDA graph, launch by launch, and seed by seed."""
    from analysis.speed.contenders import population, population_step
    from analysis.speed.speed import Limits, in_turns
    from posmlp.presets import resolve

    on_gpu = device != "cpu"
    config, rows = (resolve("toy") if on_gpu else _small()), []
    for count in (1, 8, 32, 64) if on_gpu else (1, 4):
        steps = {}
        for way, vectorised, recorded in (
            ("one graph", True, True),
            ("together", True, False),
            ("one by one", False, False),
        ):
            if (vectorised or count <= 32) and (on_gpu or not recorded):
                both = population(config, count, device, vectorised, recorded=recorded)
                steps[way] = population_step(both, 32 if on_gpu else 4)
        limits = Limits(2, 5 if on_gpu else 2, 0.0, max_seconds=20.0)
        for way, seconds in in_turns(steps, limits, device).items():
            rows.append({"seeds": count, "way": way, "step_ms": 1e3 * median(seconds)})
    return {"precision": "bfloat16" if on_gpu else "float32", "steps": rows}


def step_with_input(device: str, folder: Path) -> Found:
    """A step of eight seeds with what makes its batch, from generated clips."""
    from posmlp.presets import resolve
    from posmlp.train.fitting import fit

    on_gpu = device != "cpu"
    train = _recipe(epochs=3, num_clips=1280 if on_gpu else 64, batch_size=32, num_val_clips=2)
    config, seeds = (resolve("toy"), range(8)) if on_gpu else (_small(), range(2))
    rows = fit(config, train, "moving-digits", seeds, device=device, progress=False)
    num_steps = train.num_clips // train.batch_size
    row = rows[-1]  # its seconds have scoring in them, of few clips
    return {
        "seeds": len(seeds),
        "step_ms": 1e3 * row["seconds"] / num_steps,
        "share_waiting": row["data_wait_share"],
    }


def s16(device: str, folder: Path) -> Found:
    """S16 beside the einsum formulation of the tests, eager and in bfloat16."""
    return _speed(device, ("eager", "bfloat16"))


def s16_compiled(device: str, folder: Path) -> Found:
    """The same compiled, which takes most of this check's time."""
    if device == "cpu":
        raise Skip("compiling for a CPU takes minutes and needs a C++ compiler")
    return _speed(device, ("compiled", "compiled bfloat16"))


def _speed(device: str, modes: Sequence[str]) -> Found:
    from analysis.speed.contenders import Reference
    from analysis.speed.speed import PHASES, measure_speed
    from posmlp.presets import resolve
    from posmlp.train.population import seeded_model

    on_gpu = device != "cpu"
    config = resolve("s16", drop_path=0.0) if on_gpu else _small()
    model = seeded_model(config, 0)
    table = measure_speed(
        {"reference": Reference(model), "posmlp": model},
        batch_sizes=(8 if on_gpu else 1,), phases=PHASES, modes=modes, device=device,
        warm_up=2, min_runs=10 if on_gpu else 2, min_seconds=0.0, max_seconds=20.0,
    )  # fmt: skip
    names = ["model", "phase", "mode", "batch_size", "median_ms", "ratio"]
    return {"rows": table[names].round(3).to_dict("records")}


# ---- memory ------------------------------------------------------------------------------------


def memory_ladder(device: str, folder: Path) -> Found:
    """A grid whose population does not fit into a small share of the GPU gets lighter, and ends."""
    if device == "cpu":
        raise Skip("a CPU's memory has no such limit")
    import runpy

    import torch

    total = torch.cuda.get_device_properties(device).total_memory
    index = torch.device(device).index or 0
    torch.cuda.set_per_process_memory_fraction(min(1.0, 6e8 / total), index)
    wide = {"dims": [64, 128], "image_size": 32, "num_frames": 8, "windows": [4, 4]}
    words = _grid(folder, axes={"train.lr": [1e-3, 2e-3]}, seeds=8)
    grid = json.loads((folder / "grid.yaml").read_text())
    grid["base"] |= wide | {"temporal_windows": None}
    (folder / "grid.yaml").write_text(json.dumps(grid))
    sys.argv = ["ablations", *words, "--device", device]
    try:
        runpy.run_module("ablations", run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise ValueError(f"ablations run ended with code {end.code}") from end
    results = _results(folder)
    if not any(result["memory_steps"] for result in results):
        raise ValueError("nothing ran out of memory; the share is too large for this check")
    return {"memory_steps": sorted({step for r in results for step in r["memory_steps"]})}


LIMITS_S: dict[Run, float] = {
    imports: 60,
    fit_one: 60,
    fit_four: 60,
    fit_variants: 60,
    fit_micro_batches: 60,
    run_two_workers: 90,
    run_a_death: 120,
    every_gate: 60,
    population_and_alone: 60,
    graph_and_launches: 60,
    same_run_twice: 60,
    kill_and_resume: 60,
    step_times: 120,
    step_with_input: 60,
    s16: 90,
    memory_ladder: 90,
    s16_compiled: 240,
}
"""Checks in their order, and after how many seconds each is ended."""
CHECKS = {run.__name__: run for run in LIMITS_S}


def check_gpu(
    out: str | Path, device: str = "cuda", only: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """A row a check as it ends, which is then a line of OUT/check_gpu.jsonl too.

    `only`: names of CHECKS; all by default. Keys: check, ok, skipped (why, or None), seconds,
    device, and found or reason. Raises ValueError for an unknown name, before any is run.
    """
    if unknown := [name for name in only if name not in CHECKS]:
        raise ValueError(f"unknown check {unknown[0]!r}; use some of: {', '.join(CHECKS)}")
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "check_gpu.jsonl").open("a") as file:
        for name in only or CHECKS:
            row = _checked(name, device)
            file.write(json.dumps(row) + "\n")
            file.flush()
            yield row


def _checked(name: str, device: str) -> dict[str, Any]:
    """Run a check in a process of its own, and the processes that it starts in the same session."""
    command = [sys.executable, "-m", __name__, name, device]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    began, limit_s = time.perf_counter(), LIMITS_S[CHECKS[name]]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    try:
        said, errors = process.communicate(timeout=limit_s)
        last = errors.strip().splitlines()[-1:] or ["it said nothing"]
        ended = {"reason": f"ended with code {process.returncode}: {last[0]}"}
        answer = json.loads(said.strip().splitlines()[-1]) if said.strip() else ended
    except subprocess.TimeoutExpired:
        answer = {"reason": f"it took longer than {limit_s:g} s"}
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    row = {"check": name, "ok": "reason" not in answer, "device": device}
    return row | {"seconds": round(time.perf_counter() - began, 2)} | answer


def main(name: str, device: str) -> None:
    """One check, in this process; the answer is the last line of what it prints."""
    import tempfile

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else prints shall not stand in the answer
    with tempfile.TemporaryDirectory() as folder:
        try:
            answer: Found = {"found": CHECKS[name](device, Path(folder))}
        except Skip as why:
            answer = {"skipped": str(why)}
        except Exception as error:
            answer = {"reason": f"{type(error).__name__}: {error}"}
    answers.write(json.dumps(answer, default=str) + "\n")
    answers.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
