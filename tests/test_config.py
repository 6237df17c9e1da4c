"""Configurations: the layout grammar, JSON both ways, presets, and one clear message each."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posmlp import PRESET_SOURCES, PRESETS, PosMLPConfig, settings
from posmlp.config import TrainConfig
from posmlp.config_checks import BRANCHES, GATE_FORMS, GATE_NAMES, GQPE_SPREADS, INITS, parse_layout
from posmlp.presets import resolve

steps = st.lists(st.sampled_from(BRANCHES), min_size=1, max_size=3, unique=True)
layouts = st.lists(steps, min_size=1, max_size=4)


def test_gate_width_is_that_of_the_ratio_it_was_read_from() -> None:
    """122 / 56 * 56 is a little below 122 in binary."""
    for dim in (2, 56, 98, 128):
        for width in range(2, 5 * dim, 2):
            config = PosMLPConfig(
                depths=(1,),
                dims=(dim,),
                num_groups=1,
                windows=1,
                mlp_ratio=width / dim,
                downsample=(),
            )
            assert config.gate_dim(0) == width // 2


def write_layout(parsed: list[list[str]]) -> str:
    return ">".join("+".join(step) for step in parsed)


@given(layouts)
def test_layout_parses_back_to_what_wrote_it(parsed: list[list[str]]) -> None:
    assert [list(step) for step in parse_layout(write_layout(parsed))] == parsed


@pytest.mark.parametrize(
    ("layout", "parsed"),
    [
        ("T+S", (("T", "S"),)),
        ("T>S", (("T",), ("S",))),
        ("ST+S", (("ST", "S"),)),
        ("T>S>ST", (("T",), ("S",), ("ST",))),
        ("T+S>ST", (("T", "S"), ("ST",))),
        ("T-S", (("T",), ("S",))),
        ("T+S - ST", (("T", "S"), ("ST",))),
        ("S-T>S", (("S",), ("T",), ("S",))),
    ],
)
def test_layout_plus_is_parallel_and_greater_is_the_next_step(layout: str, parsed: tuple) -> None:
    assert parse_layout(layout) == parsed
    assert PosMLPConfig(layout=layout).layout == write_layout(parsed)


@pytest.mark.parametrize(
    "layout", ["", "TS", "t+s", "T+", ">S", "T>>S", "T->S", "T,S", "T+X", "T S"]
)
def test_layout_outside_the_grammar_is_refused(layout: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(layout))) as error:
        PosMLPConfig(layout=layout)
    assert all(part in str(error.value) for part in ("T", "S", "ST", "'+'", "'>'"))


@pytest.mark.parametrize("layout", ["T+T", "S>ST+ST"])
def test_layout_with_one_branch_twice_in_a_step_is_refused(layout: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(layout))):
        PosMLPConfig(layout=layout)


def test_layout_stage_by_stage() -> None:
    config = PosMLPConfig(layout=("T+S", "T>S", "ST", "S"))
    assert config.layouts == ("T+S", "T>S", "ST", "S")
    assert PosMLPConfig(layout="ST").layouts == ("ST",) * 4
    with pytest.raises(ValueError, match="layout"):
        PosMLPConfig(layout=("T+S", "T>S"))


# JSON


@st.composite
def configs(draw: st.DrawFn) -> PosMLPConfig:
    """Valid configurations over all fields."""
    num_stages = draw(st.integers(1, 4))
    each = st.lists(st.sampled_from((1, 2)), min_size=num_stages, max_size=num_stages).map(tuple)
    groups = draw(each)
    windows = draw(each)
    last = 4 * 2 ** (num_stages - 1) * 2
    gate = draw(st.sampled_from(GATE_NAMES))
    return PosMLPConfig(
        num_classes=draw(st.integers(0, 20)),
        in_channels=draw(st.integers(1, 4)),
        num_frames=draw(st.sampled_from((4, 8))),
        image_size=draw(st.sampled_from((last, (last, 2 * last)))),
        depths=draw(each),
        dims=tuple(4 * g * 2**i for i, g in enumerate(groups)),
        num_groups=groups,
        windows=windows,
        temporal_windows=draw(st.sampled_from((None, 2, 4, (4,) * num_stages))),
        layout=draw(
            st.one_of(layouts.map(write_layout), st.tuples(*[st.just("T+S")] * num_stages))
        ),
        gate=gate,
        gate_form=draw(st.sampled_from(GATE_FORMS)),
        token_bias=draw(st.booleans()),
        mlp_ratio=draw(st.sampled_from((2.0, 4.0, (2.0,) * num_stages))),
        gqpe_spread=draw(st.sampled_from(GQPE_SPREADS)),
        gqpe_symmetric=draw(st.booleans()),
        gqpe_softmax=gate == "centred-gqpe" or draw(st.booleans()),
        conv_size=draw(st.sampled_from((1, 3, 5))),
        init=draw(st.sampled_from(INITS)),
        drop_path=draw(st.floats(0, 0.9)),
        norm_eps=draw(st.sampled_from((1e-5, 1e-6))),
    )


@given(configs())
def test_config_survives_json(config: PosMLPConfig) -> None:
    plain = config.to_dict()
    written = json.dumps(plain)
    assert json.loads(written) == plain  # plain values only: nothing that JSON would change
    again = PosMLPConfig.from_dict(json.loads(written))
    assert again == config
    assert hash(again) == hash(config)


@pytest.mark.parametrize("name", PRESETS)
def test_preset_survives_json_and_names_its_source(name: str) -> None:
    assert PosMLPConfig.from_dict(json.loads(json.dumps(PRESETS[name].to_dict()))) == PRESETS[name]
    assert PRESET_SOURCES[name]


def test_config_with_a_callable_gate_refuses_json() -> None:
    config = PosMLPConfig(gate=lambda dim, window, num_groups: None)
    with pytest.raises(ValueError, match="JSON"):
        config.to_dict()


def test_one_value_serves_all_stages() -> None:
    config = PosMLPConfig(num_groups=4, windows=1, temporal_windows=2, mlp_ratio=4.0)
    assert config.num_groups == (4,) * 4
    assert config.windows == (1,) * 4
    assert config.temporal_windows == (2,) * 4
    assert config.mlp_ratio == (4.0,) * 4
    assert config == PosMLPConfig(
        num_groups=(4,) * 4, windows=(1,) * 4, temporal_windows=(2,) * 4, mlp_ratio=(4.0,) * 4
    )


def test_temporal_windows_default_to_the_whole_clip() -> None:
    assert PosMLPConfig(num_frames=6).temporal_windows == (6,) * 4
    assert resolve("toy", num_frames=16).temporal_windows == (16,) * 4
    kept = resolve("toy", temporal_windows=(8, 4, 4, 2))
    assert resolve(kept, num_frames=16).temporal_windows == (8, 4, 4, 2)


def test_square_image_sizes_are_equal_however_written() -> None:
    assert PosMLPConfig(image_size=(32, 32)) == PosMLPConfig(image_size=32)
    assert PosMLPConfig(image_size=(32, 64)).size == (32, 64)


@pytest.mark.parametrize(
    ("side", "expected"), [(224, [56, 28, 14, 7]), (225, [57, 29, 15, 8]), (33, [9, 5, 3, 2])]
)
def test_stage_sizes_round_up(side: int, expected: list[int]) -> None:
    sizes = PosMLPConfig().stage_sizes(side, 32)
    assert [rows for rows, _ in sizes] == expected
    assert [columns for _, columns in sizes] == [8, 4, 2, 1]


# Bad input: the message names the value, and what would do instead.

BAD_IN_TRAINING: list[tuple[str, Any]] = [
    *(("epochs", 0), ("batch_size", 2.5), ("lr", "1e-3"), ("label_smoothing", 1.0)),
    *(("precision", "fp8"), ("checkpoint_every", -1), ("checkpoint_every", 1.5)),
]


@pytest.mark.parametrize(("key", "value"), BAD_IN_TRAINING)
def test_train_config_names_the_bad_value(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{key}.*{value}"):
        TrainConfig.from_dict({key: value})


BAD: list[tuple[dict[str, Any], list[str]]] = [
    ({"gate": "lrp"}, ["'lrp'", *GATE_NAMES]),
    ({"gate": 3}, ["3", "lrpe"]),
    ({"gate": "centred-gqpe", "gqpe_softmax": False}, ["gqpe_softmax=False", "sum to 1", "'gqpe'"]),
    ({"gate_form": "times"}, ["'times'", *GATE_FORMS]),
    ({"init": "xavier"}, ["'xavier'", *INITS]),
    ({"gqpe_spread": "matrix"}, ["'matrix'", *GQPE_SPREADS]),
    ({"num_groups": 3}, ["3", "16", "stage 1", "4"]),
    ({"num_groups": (2, 4, 8, 7)}, ["7", "128", "stage 4"]),
    ({"num_groups": 0}, ["num_groups", "0"]),
    ({"num_groups": (2, 4)}, ["num_groups", "[2, 4]", "4"]),
    ({"windows": 15}, ["15", "8", "stage 1"]),
    ({"windows": (4, 4, 2, 2)}, ["2", "1", "stage 4"]),
    ({"windows": 0}, ["windows", "0"]),
    ({"windows": "4"}, ["windows", "4"]),
    ({"temporal_windows": 3}, ["3", "8", "stage 1"]),
    ({"temporal_windows": 0}, ["temporal_windows", "0"]),
    ({"temporal_windows": -4}, ["temporal_windows", "-4"]),
    ({"num_frames": 0}, ["num_frames", "0"]),
    ({"num_frames": 8.0}, ["num_frames", "8.0"]),
    ({"image_size": 40}, ["40", "stage"]),
    ({"image_size": 0}, ["image_size", "0"]),
    ({"image_size": -32}, ["image_size", "-32"]),
    ({"image_size": 32.0}, ["image_size", "32.0"]),
    ({"image_size": "32"}, ["image_size", "32"]),
    ({"image_size": (32,)}, ["image_size", "32"]),
    ({"dims": (15, 32, 64, 128), "num_groups": 1}, ["15", "even"]),
    ({"dims": (16, 32, 64)}, ["dims", "depths"]),
    ({"depths": ()}, ["depths"]),
    ({"depths": 2}, ["depths", "2"]),
    ({"depths": (1, 1, 0, 1)}, ["depths", "0"]),
    ({"drop_path": 1.0}, ["drop_path", "1.0"]),
    ({"drop_path": -0.1}, ["drop_path", "-0.1"]),
    ({"drop_path": "0.1"}, ["drop_path", "0.1"]),
    ({"conv_size": 4}, ["conv_size", "4", "odd"]),
    ({"num_classes": -1}, ["num_classes", "-1"]),
    ({"mlp_ratio": 0.0}, ["mlp_ratio", "0"]),
    ({"mlp_ratio": "2", "dims": (2,) * 4, "num_groups": 1}, ["mlp_ratio", "2"]),
    ({"token_bias": "no"}, ["token_bias", "no"]),
    ({"norm_eps": -1.0}, ["norm_eps", "-1"]),
    ({"stem_convs": 4}, ["stem_convs", "4", "3"]),
    ({"stem_norm": "group"}, ["'group'", "batch", "layer"]),
    ({"kind": "image"}, ["image", "num_frames"]),
    ({"kind": "audio"}, ["'audio'", "video", "image"]),
    ({"layout": 5}, ["layout", "5"]),
]


@pytest.mark.parametrize(("fields", "parts"), BAD, ids=[str(fields) for fields, _ in BAD])
def test_bad_value_is_refused_by_name(fields: dict, parts: list[str]) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        PosMLPConfig(**fields)
    missing = [part for part in parts if part not in str(error.value)]
    assert not missing, f"the message lacks {missing}: {error.value}"


def test_fewer_stages_take_the_values_of_the_first() -> None:
    found = resolve("toy", depths=[1, 2])
    assert (found.dims, found.num_groups, found.windows) == ((16, 32), (2, 4), (4, 4))
    assert (found.mlp_ratio, found.temporal_windows, found.downsample) == (
        *((2.0, 2.0), (8, 8)),
        (True,),
    )
    assert resolve("toy", dims=(16,), num_frames=4).temporal_windows == (4,)
    assert resolve("toy", depths=(1, 1), windows=2).windows == (2, 2)


def test_more_stages_take_what_is_alike_and_ask_for_the_rest() -> None:
    more = {"depths": (1,) * 5, "dims": (16,) * 5}
    found = resolve("toy", **more, num_groups=2, windows=1)
    assert (found.mlp_ratio, found.downsample) == ((2.0,) * 5, (True,) * 4)
    with pytest.raises(ValueError, match=r"num_groups=\[2, 4, 8, 16\] has 4 values for 5 places"):
        resolve("toy", **more)


def test_unknown_key_names_the_valid_ones() -> None:
    names = [field.name for field in dataclasses.fields(PosMLPConfig)]
    with pytest.raises(ValueError, match="gamma") as error:
        PosMLPConfig.from_dict({**PRESETS["toy"].to_dict(), "gamma": 8})
    assert all(name in str(error.value) for name in names)
    with pytest.raises(ValueError, match="num_groups"):
        resolve("toy", num_group=4)


def test_unknown_preset_names_the_valid_ones() -> None:
    with pytest.raises(ValueError, match="s61") as error:
        resolve("s61")
    assert all(name in str(error.value) for name in PRESETS)


@pytest.mark.parametrize(
    ("clip", "parts"),
    [((6, 32, 32), ["6", "8"]), ((8, 48, 32), ["H=12", "48", "stage"]), ((8, 32, 36), ["W=9"])],
)
def test_clip_that_windows_do_not_divide_is_refused(
    clip: tuple[int, int, int], parts: list[str]
) -> None:
    config = PosMLPConfig(windows=(4, 4, 2, 1) if clip[1] != 48 else (8, 4, 2, 1))
    with pytest.raises(ValueError, match=r".") as error:
        config.check_clip(*clip)
    assert all(part in str(error.value) for part in parts), str(error.value)


# What users write


@pytest.mark.parametrize("text", ["010", "1:30", "0x10", "1_0:5", "0b11", "0o7", "2024-01-01"])
@pytest.mark.parametrize("key", ["epochs", "warmup_epochs", "batch_size"])
def test_a_setting_is_not_read_as_another_number(key: str, text: str) -> None:
    with pytest.raises(ValueError, match=rf"{key}='{text}' must be a"):
        settings.configs("toy", [f"{key}={text}"])


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("8", 8), ("-.5", -0.5), ("true", True), ("[1, 2]", [1, 2]), ("on", "on")],
)
def test_a_setting_is_read_as_it_is_written(text: str, value: object) -> None:
    found = settings.parse_value(text)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("text", ["5", "yes", "010", "1e3", "null", "2024-01-01"])
def test_a_file_may_be_called_anything(text: str) -> None:
    assert settings.configs("toy", [f"init_from={text}"])[1].init_from == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr: 1e-3\nepochs: 3\nlr: 5e-2\n", r"c\.yaml:3:1: 'lr' stands twice; keep one"),
        ("epochs: 010\n", "epochs='010' must be a whole number"),
        ("preset: [toy]\n", r"unknown preset \['toy'\]"),
        ("preset: 5\n", "unknown preset 5"),
        ("init_from: 5\n", "init_from=5 must be text, the path of a model file"),
        ("dims: &a [8, *a]\n", r"c\.yaml:1:7: an anchor stands within itself; write the values"),
        ("lr: 1e-3\x1b\n", r"c\.yaml:1:9: this is not YAML: it has the control character '\\x1b'"),
        ("lr: !!int x\n", r"c\.yaml:1:5: 'x' is not what its tag .* leave the tag out"),
        ("? [a]\n: 1\n", r"c\.yaml:1:3: a key must be a single word"),
        ("- lr\n", "must hold 'key: value' lines, not list"),
    ],
)
def test_a_config_file_is_read_strictly(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as raised:
        settings.configs(str(path), [])
    assert "\n" not in str(raised.value)


def test_a_config_file_in_another_encoding_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("lr: 1e-3  # Größe\n", encoding="utf-16")
    with pytest.raises(ValueError, match=r"c\.yaml is no text in UTF-8 \(byte 0\); save it"):
        settings.configs(str(path), [])


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        *(("learning_rate", "lr"), ("train.lr", "lr"), ("train.learning-rate", "lr")),
        *(("train.epoch", "epochs"), ("dropout", "drop_path"), ("batch-size", "batch_size")),
        *(("momentum", None), ("optimizer", None)),
        *(("lr_rate", None), ("drop", "drop_path"), ("EPOCHS", "epochs")),
        *(("layers", None), ("width", None)),
    ],
)
def test_a_hint_names_what_is_meant_or_nothing(written: str, meant: str | None) -> None:
    with pytest.raises(ValueError, match=f"unknown config key '{written}'") as raised:
        settings.configs("toy", [f"{written}=1"])
    hint = f" Did you mean {meant!r}?" if meant else ""
    assert f"'{written}'.{hint} Use one of" in str(raised.value)
