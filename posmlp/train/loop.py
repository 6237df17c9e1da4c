"""The training loop: the state of one run, step by step and epoch by epoch.

Shapes: S members of the population.
"""

from __future__ import annotations

import hashlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from posmlp.checkpoint import model_file, save
from posmlp.config import PosMLPConfig, TrainConfig
from posmlp.data.files.video import VideoError
from posmlp.data.sources import ClipSource
from posmlp.train.batches import Batch, TrainingBatches
from posmlp.train.distributed import Team
from posmlp.train.execution import Prepare, in_bfloat16
from posmlp.train.logs import Log
from posmlp.train.optimisation import (
    BestWeights,
    Optimiser,
    WeightAverage,
    class_weights,
    learning_rate,
    lent,
    relation_parameters,
)
from posmlp.train.population import Population
from posmlp.train.run_folder import RunFolder, model_path, not_scored
from posmlp.train.scoring import EVALUATION_BATCH, metric_names, score
from posmlp.train.stopping import Stopped, StoppedAtOnce, obeyed, whole
from posmlp.train.variants import Variants, members

STORE_EVERY_S = 300.0
"""Seconds after which the middle of a long epoch is stored, for a death that gives no notice."""


class Splits(NamedTuple):
    """The clips of a training; without `val` nothing can be chosen by it."""

    train: ClipSource
    val: ClipSource | None
    test: ClipSource

    def describe(self) -> dict[str, Any]:
        """What determines the clips of each split."""
        return {k: clips.describe() for k, clips in self._asdict().items() if clips is not None}


class Training:
    """The state of one `fit`: population, optimiser, history, and how far it has come."""

    def __init__(
        self,
        config: PosMLPConfig,
        train: TrainConfig,
        clips: Splits,
        seeds: tuple[int, ...],
        variants: Variants | None,
        device: torch.device,
        micro_batches: int,
        team: Team,
        prepare: Prepare | None,
    ) -> None:
        self.config, self.train, self.micro_batches, self.team = config, train, micro_batches, team
        self.seeds = seeds
        self.variants = {name: dict(values) for name, values in (variants or {}).items()}
        self.members = members(config, train, seeds, variants)
        self.clips = clips
        labels = clips.train.labels
        self.multi_label = labels.dim() == 2
        balances = train.class_weights == "balanced"
        self.population = Population(
            [member.config for member in self.members],
            [member.seed for member in self.members],
            device,
            init_from=train.init_from,
            freeze=train.freeze,
            class_weights=class_weights(labels, len(clips.train.classes)) if balances else None,
            multi_label=self.multi_label,
            prepare=prepare,
            recorded=False if train.deterministic else None,
        )
        settings = [member.train for member in self.members]
        relations = relation_parameters(self.population.model)
        self.optimiser = Optimiser(self.population.parameters, settings, relations)
        self.average = WeightAverage(self.population, train.ema_decay) if train.ema_decay else None
        self.batches = TrainingBatches(clips.train, train, self.population, team)
        self.best = BestWeights(self.population) if train.keep == "best" else None
        self.history: list[dict[str, Any]] = []
        self.epochs_done, self.steps_done = 0, 0  # whole epochs, and steps of the next one
        self.sums = torch.zeros(2, len(settings), device=device)  # loss, accuracy over those steps
        self.spent = (0.0, 0.0)  # seconds of them, in all and waiting, in processes before this one
        self.began = self.stored = time.perf_counter()
        self.votes = torch.zeros(())  # the share of the team that was asked to stop
        self.source: str | None = None
        self.watch: Callable[[int, list[float]], None] | None = None
        self.log: Log | None = None
        self.autocast = in_bfloat16(train.precision, device)

    def describe(self) -> dict[str, Any]:
        start = model_file(self.train.init_from).read_bytes() if self.train.init_from else b""
        return {
            "model": self.config.to_dict(),
            "train": self.train.to_dict(),
            "source": self.source,
            "data": self.clips.describe(),
            "classes": list(self.clips.train.classes),
            "seeds": list(self.seeds),
            **({"variants": self.variants} if self.variants else {}),
            **({"multi_label": True} if self.multi_label else {}),
            **({"init_sha256": hashlib.sha256(start).hexdigest()} if start else {}),
        }

    def resume(self, folder: RunFolder) -> bool:
        """Take up a stored state; returns whether the run was already complete."""
        self.history = [row for row in folder.rows() if row["epoch"] <= self.train.epochs]
        if folder.is_complete(self.train.epochs):
            self._tell_lost_models(folder.root)
            return True
        stored = folder.load_state()
        if stored is None:
            self.history = []
            return False
        tensors, self.epochs_done = stored
        self.history = [row for row in self.history if row["epoch"] <= self.epochs_done]
        self.population.load_state(_with_prefix("model.", tensors))
        self.optimiser.load_state(tensors)
        if self.average is not None:
            self.average.load(_with_prefix("average.", tensors))
        if self.best is not None:
            self.best.load_state(tensors)
        if "epoch.steps" in tensors:
            self.steps_done = int(tensors["epoch.steps"])
            self.sums = tensors["epoch.sums"].to(self.population.device)
            spent = tensors.get("epoch.seconds", torch.zeros(2)).tolist()
            self.spent = (spent[0], spent[1])
        return False

    def _tell_lost_models(self, root: Path) -> None:
        """Say so if a finished run, whose history is all that is asked of it now, lacks a model."""
        for member in self.members:
            path = model_path(root, member)
            if not path.is_file() and self.team.is_first:
                print(
                    f"{root} is complete, but {path.name} is gone; put it back, or move "
                    "metrics.csv away to train again",
                    file=sys.stderr,
                )

    def run(self, folder: RunFolder | None, progress: bool) -> None:
        """Train to the end. A signal, or a video that is lost, stores the middle of the epoch."""
        num_steps = self.batches.num_steps
        bar = tqdm(
            total=self.train.epochs * num_steps,
            initial=self.epochs_done * num_steps + self.steps_done,
            desc=f"{len(self.members)} {'member' if self.variants else 'seed'}(s)",
            unit="step",
            disable=None if progress and self.team.is_first else True,
        )
        with nullcontext() if folder is None else self._stoppable(folder), bar:
            for epoch in range(self.epochs_done, self.train.epochs):
                self.began = time.perf_counter() - self.spent[0]
                self.batches.waited = self.spent[1]
                self._train_epoch(epoch, bar, folder)
                if self.population.device.type == "cuda":  # else its time is that of launching
                    torch.cuda.synchronize(self.population.device)
                self._record(epoch + 1, time.perf_counter() - self.began)
                bar.set_postfix_str(f"waiting for clips {self.history[-1]['data_wait_share']:.1%}")
                with whole():
                    self.epochs_done, self.steps_done, self.spent = epoch + 1, 0, (0.0, 0.0)
                    self.sums = torch.zeros_like(self.sums)
                    if folder is not None and self.team.is_first:
                        with folder.keeping():
                            self._store(folder, epoch + 1)
                    self.tell(folder)
                if progress and bar.disable and self.team.is_first:
                    print(epoch_line(self.history, self.train.epochs), file=sys.stderr, flush=True)
        if progress and self.team.is_first:
            print(waiting(self.history), file=sys.stderr)

    @contextmanager
    def _stoppable(self, folder: RunFolder) -> Iterator[None]:
        """Within the block, what stops the training stores what is trained, and says so.

        A team agrees on its last step (`_team_stops`), as its processes wait for each other.
        """
        together = whole(patient=True) if self.team.size > 1 else nullcontext()
        with obeyed(), together:
            try:
                yield
            except StoppedAtOnce:
                print(f"stopped at once; {folder.kept()}", file=sys.stderr)
                raise
            except (KeyboardInterrupt, Stopped) as stop:
                with whole(patient=True):
                    if self.team.is_first:
                        self._save_middle(folder)
                        cause = stop.cause if isinstance(stop, Stopped) else "Ctrl-C"
                        print(f"stopped by {cause}; {folder.kept()}", file=sys.stderr)
                    self.team.wait()
                raise
            except VideoError as error:  # it could be read before: keep what is trained
                with whole(patient=True):
                    self._save_middle(folder)  # any process may write: all of them hold the same
                raise VideoError(
                    error.path,
                    f"{error.reason}. What is trained is kept in {folder.root}. Put the file "
                    "back, or let `posmlp data check` leave it out; then give the same command",
                ) from error

    def tell(self, folder: RunFolder | None) -> None:
        """Give the log, if there is one, the rows of the history that it was not given before.

        What a run folder's log was given, in processes before this one too, is counted there.
        """
        if self.log is None or not self.team.is_first:
            return
        at = Path("run") if folder is None else folder.root
        first = len(self.history) - len(self.members) if folder is None else folder.num_told()
        for place, row in enumerate(self.history[first:], start=first):
            run = at / self.members[place % len(self.members)].label
            try:
                self.log(run, {k: v for k, v in row.items() if not not_scored(k, v)})
            except Exception as error:
                kept = "" if folder is None else f"; {folder.kept()}"
                what = f"the log of {run} failed at epoch {row['epoch']}"
                raise ValueError(f"{what} ({type(error).__name__}: {error}){kept}") from error
            if folder is not None:
                folder.count_told(place + 1)

    def _train_epoch(self, epoch: int, bar: tqdm, folder: RunFolder | None) -> None:
        """Train from the step that was reached to the epoch's end."""
        num_steps = self.batches.num_steps
        batches = self.batches.epoch(epoch, self.steps_done)
        for step in range(self.steps_done, num_steps):
            batch = next(batches)
            with whole():
                scores = self._step(batch, epoch + step / num_steps)
                self.sums += scores
                self.steps_done = step + 1
                if self.average is not None:
                    self.average.update(epoch * num_steps + step + 1)
            bar.update()
            if self.watch is not None:
                self.watch(epoch * num_steps + step + 1, scores[0].tolist())
            if self.team.size > 1 and self._team_stops():
                raise Stopped(self.team.asked() or "a signal to another process")
            if folder is not None and time.perf_counter() - self.stored > STORE_EVERY_S:
                with whole():
                    if self.team.is_first:
                        self._save_state(folder)
        batches.close()

    def _team_stops(self) -> bool:
        """Whether a process of the team had been asked to stop by the end of the step before this.

        One step late, so that no process waits for the votes of this one.
        """
        vote = torch.tensor(float(bool(self.team.asked())), device=self.population.device)
        before, self.votes = self.votes, self.team.mean({"asked": vote})["asked"]
        return bool(before > 0)

    def _step(self, batch: Batch, epoch: float) -> Tensor:
        """One step at the rates of a fractional epoch; the batch's loss and accuracy, (2, S)."""
        gradients, loss, logits = self.population.gradients(
            batch.clips,
            batch.targets,
            batch.scales,
            label_smoothing=self.train.label_smoothing,
            autocast=self.autocast,
            micro_batches=self.micro_batches,
            draws=batch.draws,
        )
        best = logits.argmax(-1)
        hits = batch.targets.gather(-1, best[..., None])[..., 0] if self.multi_label else None
        accuracy = ((best == batch.labels) if hits is None else hits > 0).float().mean(-1)
        scores = self.team.mean({"scores": torch.stack([loss, accuracy])})["scores"]
        self.optimiser.step(self.team.mean(gradients), epoch)
        return scores

    def _record(self, epoch: int, seconds: float) -> None:
        """Score the val clips, at the end the test clips, and add a row a seed to the history."""
        scores: list[dict[str, float]] = [{} for _ in self.members]
        with self._averaged():
            if self.clips.val is not None:
                found = self._score(self.clips.val)
                scores = [{f"val_{k}": v for k, v in each.items()} for each in found]
                if self.best is not None:
                    self.best.update(epoch, found)
        unseen = dict.fromkeys(metric_names(self.clips.test, self.train), math.nan)
        tested = [unseen] * len(self.members)
        if epoch == self.train.epochs:
            with self._kept():
                tested = self._score(self.clips.test)
        losses, correct = (self.sums / self.batches.num_steps).tolist()
        for i, member in enumerate(self.members):
            row = {
                "epoch": epoch,
                **member.columns,
                "lr": learning_rate(member.train, epoch),
                "train_loss": losses[i],
                "train_top1": correct[i],
                **scores[i],
                **{f"test_{name}": value for name, value in tested[i].items()},
                "seconds": seconds,
                "data_wait_share": self.batches.waited / seconds,
            }
            self.history.append(row)
            if not math.isfinite(row["train_loss"]) and self.team.is_first:
                where = f"{member.label}: loss is {row['train_loss']} in epoch {epoch}"
                print(where, file=sys.stderr)

    def _score(self, clips: ClipSource) -> list[dict[str, float]]:
        """Scores of each member."""
        batch_size = math.ceil(EVALUATION_BATCH / self.micro_batches)
        how = self.train, batch_size, self.team
        return score(self.population, clips, *how, autocast=self.autocast)

    def _averaged(self) -> AbstractContextManager[None]:
        """Within this the population has the weights of now that are scored."""
        return lent(self.population, self.average) if self.average else nullcontext()

    def _kept(self) -> AbstractContextManager[None]:
        """Within this the population has the weights that are tested and saved at the end."""
        return lent(self.population, self.best) if self.best else self._averaged()

    def _store(self, folder: RunFolder, epoch: int) -> None:
        """Store an epoch in an order that a kill at any moment leaves resumable.

        Rows of the last epoch mean that the run is complete, so the models come before them.
        """
        if epoch < self.train.epochs:
            folder.write_rows(self.history)
            if self.train.checkpoint_every and epoch % self.train.checkpoint_every == 0:
                with self._averaged():
                    epochs = [epoch] * len(self.members)
                    self._save_models(folder.root / "checkpoints", f"epoch{epoch}", epochs)
            self._save_state(folder)
            return
        with self._kept():
            self._save_models(folder.root, "model", self.best.epochs if self.best else None)
        folder.write_rows(self.history)
        folder.drop_state(epoch)

    def _save_models(self, folder: Path, what: str, epochs: list[int] | None) -> None:
        for i, member in enumerate(self.members):
            path = folder / f"{what}-{member.label}.safetensors"
            about = {"epoch": str(epochs[i])} if epochs else {}
            save(self.population.member(i), path, seed=str(member.seed), **about)

    def _save_middle(self, folder: RunFolder) -> None:
        """Store what is trained, wherever in an epoch that is; a finished run stores its end."""
        if self.epochs_done == self.train.epochs:
            return
        if rows := [row for row in self.history if row["epoch"] <= self.epochs_done]:
            folder.write_rows(rows)
        self._save_state(folder)

    def _save_state(self, folder: RunFolder) -> None:
        """All that going on from here needs, in the middle of an epoch too."""
        state = {f"model.{name}": tensor for name, tensor in self.population.state().items()}
        state |= self.optimiser.state()
        if self.average is not None:
            state |= {f"average.{name}": tensor for name, tensor in self.average.tensors.items()}
        if self.best is not None:
            state |= self.best.state()
        if self.steps_done:
            spent = torch.tensor([time.perf_counter() - self.began, self.batches.waited])
            state |= {"epoch.steps": torch.tensor(self.steps_done), "epoch.sums": self.sums}
            state |= {"epoch.seconds": spent}
        folder.save_state(state, self.epochs_done, self.steps_done)
        self.stored = time.perf_counter()


def epoch_line(rows: list[dict[str, Any]], epochs: int) -> str:
    """How the last epoch of a history went, on average over its members, and what is left."""
    last = [row for row in rows if row["epoch"] == rows[-1]["epoch"]]
    val = "val_top1" if "val_top1" in last[0] else "train_top1"
    loss, top1 = (sum(row[name] for row in last) / len(last) for name in ("train_loss", val))
    split = "val" if val == "val_top1" else "training"
    done, of = last[0]["epoch"], f" (mean of {len(last)})" if len(last) > 1 else ""
    spent = sum(row["seconds"] for row in rows) / len(last)
    line = f"epoch {done} of {epochs}: loss {loss:.3f}, top-1 on {split} clips {top1:.1%}{of}, "
    left = tqdm.format_interval(spent / done * (epochs - done))
    return f"{line}{last[0]['seconds']:.1f} s" + f", about {left} left" * (done < epochs)


def waiting(rows: list[dict[str, Any]]) -> str:
    """How much of the training time in a history was spent waiting for clips, in words."""
    epochs = {row["epoch"]: row for row in rows}.values()  # members share an epoch's time
    seconds = sum(row["seconds"] for row in epochs)
    waited = sum(row["data_wait_share"] * row["seconds"] for row in epochs)
    return f"waited for clips: {waited / seconds:.1%} of {seconds:.1f} s of training"


def _with_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin so, by the rest of their names."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
