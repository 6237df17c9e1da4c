"""What a run folder says that it trains: every seed, of every variant where there are some."""

from __future__ import annotations

from pathlib import Path

from posmlp.config import PosMLPConfig, TrainConfig
from posmlp.config_checks import one_of
from posmlp.train.run_folder import damaged, read_config
from posmlp.train.variants import Member, members


def run_members(run: str | Path) -> list[Member]:
    """What RUN/config.json says is trained there: every variant, if there are some, at every seed.

    Raises ValueError if there is no run, or it is damaged.
    """
    stored = read_config(run)
    try:
        config = PosMLPConfig.from_dict(stored["model"])
        train = TrainConfig.from_dict(stored["train"])
        return members(config, train, stored["seeds"], stored.get("variants") or None)
    except (ValueError, TypeError) as error:
        raise damaged(Path(run) / "config.json", error) from error


def one_variant(run: str | Path, variant: str | None = None) -> list[Member]:
    """A run's members of one variant, a seed each; `variant` is needed where it has several.

    Raises ValueError for one that is not there, and where there are several and none is chosen.
    """
    found = run_members(run)
    names = list(dict.fromkeys(member.variant for member in found))
    if variant is None and len(names) > 1:
        raise ValueError(
            f"{run} holds the variants {', '.join(names)}; choose one, for example "
            f"variant={names[0]!r} (at the command line: --variant {names[0]})"
        )
    if variant is not None and names == [""]:
        raise ValueError(f"variant={variant!r}, but {run} holds no variants; leave it out")
    variant = names[0] if variant is None else variant
    one_of(variant, names, "variant")
    return [member for member in found if member.variant == variant]


def model_path(run: str | Path, member: Member) -> Path:
    """Where the trained model of a member is once the run is complete."""
    return Path(run) / f"model-{member.label}.safetensors"
