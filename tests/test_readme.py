"""README: its commands are commands, its files exist, and its words train on a user's files."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest
import yaml

import ablations.cli
import analysis.cli
import posmlp.cli
import posmlp.tasks.__main__
from posmlp.data.layouts.layouts import LAYOUTS
from posmlp.settings import RECIPES, configs

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
PARSERS = {
    "posmlp": posmlp.cli,
    "posmlp.tasks": posmlp.tasks.__main__,
    "ablations": ablations.cli,
    "analysis": analysis.cli,
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def commands() -> list[list[str]]:
    """The program and its words, of each line that runs one of ours."""
    lines = [
        shlex.split(line, comments=True) for block in blocks("bash") for line in block.splitlines()
    ]
    found = []
    for words in filter(None, lines):
        if words[0] in ("python", "torchrun"):
            words = words[words.index("-m") + 1 :]
        if words[0] in PARSERS:
            found.append(words)
    return found


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_command_is_understood(words, monkeypatch):
    monkeypatch.chdir(ROOT)
    options = PARSERS[words[0]]._parser().parse_args(words[1:])
    if getattr(options, "config", None):
        settings = [text for text in options.settings if not text.startswith("init_from=")]
        configs(options.config, settings)
    for word in words:
        if word.endswith((".yaml", ".sh")) and not word.startswith("recipes/"):
            assert (ROOT / word).is_file(), word


def test_every_program_is_shown():
    assert {words[0] for words in commands()} == set(PARSERS)
    verbs = {" ".join(words[:2]) for words in commands()}
    assert {"posmlp.tasks detect", "posmlp.tasks micro", "posmlp export", "posmlp predict"} <= verbs


def test_links_lead_to_files():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXT)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_named_layouts_and_recipes_exist():
    (table,) = re.findall(r"\| name \| what stands in `DIR` \|\n(.*?)\n\n", TEXT, flags=re.DOTALL)
    named = set(re.findall(r"`([\w-]+)`", "".join(r.split("|")[1] for r in table.splitlines()[1:])))
    plain = {name for name in LAYOUTS if not re.search(r"-\d$", name)} - {"image-folders"}
    assert named == plain, "image-folders has its own words; all others are in the table"
    for name in re.findall(r"recipes/([\w-]+\.yaml)", TEXT):
        assert (RECIPES / name).is_file()


def test_code_blocks_are_python_and_yaml():
    for block in blocks("python"):
        ast.parse(block)
    for block in blocks("yaml"):
        assert isinstance(yaml.safe_load(block), dict)


def test_words_on_your_own_videos_train_on_files_in_folders(
    write_clip, tmp_path, capsys, monkeypatch
):
    """Each line of that section but the timing, as it stands, on a folder with one bad file."""
    monkeypatch.chdir(tmp_path)
    for split, count in (("train", 12), ("test", 3)):
        for k, name in enumerate(("dusk", "noon", "snow")):
            for i in range(count):
                path = Path("DIR", split, name, f"{i}.mp4")
                write_clip(path, [40 + 60 * k + i] * 10, height=36, width=48)
    write_clip(Path("some.mp4"), [45] * 12)
    write_clip(Path("long.mp4"), [45] * 48 + [165] * 48)  # 12 s at 8 frames a second
    write_clip(Path("other.webm"), [165] * 12, codec="libvpx", options={"deadline": "realtime"})
    Path("DIR/train/noon/bad.mp4").write_bytes(b"not a video")
    section = TEXT.split("\n## Your own videos\n")[1]
    block = re.findall(r"```bash\n(.*?)```", section, flags=re.DOTALL)[0]
    ends = {}
    for line in block.splitlines():
        words = shlex.split(line, comments=True)
        if words[:3] != ["posmlp", "data", "speed"]:
            ends[" ".join(words[1:3])] = posmlp.cli.main(words[1:])
    shown = capsys.readouterr()
    assert ends.pop("data check") == 1
    assert set(ends.values()) == {0}
    assert shown.out.count("\nlong.mp4,") == 2  # parts of 5 and 7 seconds
    assert Path("clips.png").is_file()
    assert "1 problems, 1 of them left out of training" in shown.out
    assert "10% of its groups are val; groups: files: 33 videos of 3 of 3 classes; 1 left out" in (
        shown.err
    )
    top1 = float(shown.out.split("model-seed0.safetensors  top1 ")[1].split()[0])
    assert top1 > 0.5, "ten steps tell brightness apart better than the third that chance gives"
    first = shown.out.split("some.mp4 (12 frames, read by decord)\n")[1].split("\n")[0]
    assert first.split()[1] == "dusk"
    assert Path("annotated.mp4").stat().st_size > 1000
