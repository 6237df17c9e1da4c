"""README and the rooms' pages: commands are commands, links lead somewhere, sentences are short.

What README says of a user's own videos is done, on files, as it stands.
"""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest
import yaml

import ablations.cli
import analysis
import analysis.cli
import posmlp.cli
import posmlp.tasks.__main__
from ablations.grid.expand import KEYS
from ablations.grid.grid import read_grid
from posmlp.data.layouts.layouts import LAYOUTS
from posmlp.settings import RECIPES, configs
from posmlp.train.fitting import check_own

ROOT = Path(__file__).parents[1]
NAMES = (
    *("README.md", "CONTRIBUTING.md", "posmlp/README.md", "posmlp/data/README.md"),
    *("ablations/README.md", "ablations/FINDINGS.md", "ablations/results/speed/README.md"),
    "analysis/README.md",
)
PAGES = {name: (ROOT / name).read_text() for name in NAMES}
PARSERS = {
    "posmlp": posmlp.cli,
    "posmlp.tasks": posmlp.tasks.__main__,
    "ablations": ablations.cli,
    "analysis": analysis.cli,
}
MOST_WORDS = 25


def blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def commands() -> list[list[str]]:
    """The program and its words, of each line that runs one of ours, once."""
    shown = {}
    for text in PAGES.values():
        for line in "\n".join(blocks("bash", text)).splitlines():
            words = shlex.split(line, comments=True)
            if words and words[0] in ("python", "torchrun"):
                words = words[words.index("-m") + 1 :]
            if words and words[0] in PARSERS:
                shown[" ".join(words)] = words
    return list(shown.values())


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_command_is_understood(words, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    shown = blocks("python", PAGES["posmlp/README.md"])
    for name, what in (("my_gates", "class Shift"), ("my_bars", "class Bars")):
        (tmp_path / f"{name}.py").write_text(next(block for block in shown if what in block))
    options = PARSERS[words[0]]._parser().parse_args(words[1:])
    if getattr(options, "config", None):
        settings = [text for text in options.settings if not text.startswith("init_from=")]
        settings = [text.replace("=my_", f"={tmp_path}/my_") for text in settings]
        config, train = configs(options.config, settings)
        check_own(config, train)
    for word in words:
        if word.endswith((".yaml", ".sh")) and not word.startswith("recipes/"):
            assert (ROOT / word).is_file(), word


def test_every_program_is_shown():
    verbs = {" ".join(words[:2]) for words in commands()}
    for name in ("posmlp", "ablations", "posmlp.tasks"):
        (subparsers,) = PARSERS[name]._parser()._subparsers._group_actions
        assert {f"{name} {verb}" for verb in subparsers.choices} - verbs <= {"ablations bench"}


def anchors(text: str) -> set[str]:
    """What a code host calls the headings of a page."""
    heads = re.findall(r"^#+ (.*)", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_to_files_and_headings(name):
    links = re.findall(r"\]\((?!https?:)([^)]+)\)", PAGES[name])
    assert links
    for link in links:
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), link


@pytest.mark.parametrize("name", PAGES)
def test_sentences_are_short(name):
    def num_words(sentence: str) -> int:
        return sum(bool(re.search(r"\w", word)) for word in sentence.split())

    text = re.sub(
        r"```.*?```|!\[[^\]]*\]\([^)]*\)|^ *[|#][^\n]*", "", PAGES[name], flags=re.S | re.M
    )
    text = re.sub(r"`[^`]+`", "CODE", re.sub(r"^ *(?:-|\d+\.) ", "\n\n", text, flags=re.M))
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    for paragraph in re.split(r"\n\s*\n", text):
        for sentence in re.split(r"(?<=[.!?])[)*]*\s+(?=[(*A-Z0-9])", paragraph):
            assert num_words(sentence) <= MOST_WORDS, " ".join(sentence.split())


def test_readme_is_short_and_pages_begin_with_their_contents():
    assert len(PAGES["README.md"].splitlines()) <= 150
    for name in NAMES[1:]:
        heads = re.findall(r"^## (.*)", PAGES[name], flags=re.MULTILINE)
        first = PAGES[name].split("\n## ")[0]
        assert re.findall(r"^- \[(.*?)\]\(#", first, flags=re.MULTILINE) == heads, name


def test_named_layouts_and_recipes_exist():
    text = PAGES["posmlp/data/README.md"]
    (table,) = re.findall(r"\| name \| what stands in `DIR` \|\n(.*?)\n\n", text, flags=re.DOTALL)
    named = set(re.findall(r"`([\w-]+)`", "".join(r.split("|")[1] for r in table.splitlines()[1:])))
    plain = {name for name in LAYOUTS if not re.search(r"-\d$", name)} - {"image-folders"}
    assert named == plain, "image-folders has its own words; all others are in the table"
    for name in re.findall(r"recipes/([\w-]+\.yaml)", "".join(PAGES.values())):
        assert (RECIPES / name).is_file()


def test_every_key_of_a_grid_and_every_public_name_of_analysis_has_its_row():
    def rows(name: str) -> list[str]:
        return re.findall(r"^\| `(\w+)[`(]", PAGES[name], flags=re.MULTILINE)

    assert set(KEYS) <= set(rows("ablations/README.md"))
    assert sorted(rows("analysis/README.md")) == sorted(analysis.__all__)


def test_code_is_python_and_the_grid_is_the_stored_one():
    for text in PAGES.values():
        for block in blocks("python", text):
            ast.parse(block)
    (block,) = blocks("yaml", PAGES["README.md"])
    (path,) = set(re.findall(r"ablations run (\S+)", PAGES["README.md"]))
    shown, stored = (read_grid(each) for each in (yaml.safe_load(block), ROOT / path))
    assert [cell.id for cell in shown.cells] == [cell.id for cell in stored.cells]
    assert (shown.seeds, shown.baseline.id) == (stored.seeds, stored.baseline.id)


def test_words_on_your_own_videos_train_on_files_in_folders(
    write_clip, tmp_path, capsys, monkeypatch
):
    """Each `posmlp` line of that section, as it stands, on a folder with one bad file."""
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
    block = blocks("bash", PAGES["README.md"].split("\n## Your own videos\n")[1])[0]
    ends = {}
    for line in block.splitlines():
        words = shlex.split(line, comments=True)
        if words[0] == "posmlp":
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
    top1 = float(shown.out.split("model-seed0.safetensors  top-1 ")[1].split("%")[0])
    assert top1 > 50, "ten steps tell brightness apart better than the third that chance gives"
    first = shown.out.split("some.mp4 (12 frames, read by decord)\n")[1].split("\n")[0]
    assert first.split()[1] == "dusk"
    assert Path("annotated.mp4").stat().st_size > 1000
