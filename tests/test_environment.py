"""environment.yml (conda) and pyproject.toml (pip) ask for the same packages."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
CONDA_NAMES = {
    "pytorch": "torch",
    "matplotlib-base": "matplotlib",
    "playwright-python": "playwright",
}
USER_CHOICE = (
    "torch",
    "jupyterlab",
    "matplotlib",
    "seaborn",
    "pandas",
    "fvcore",
    "captum",
    "decord",
)
MACHINES = {
    "Linux x86-64": {"sys_platform": "linux", "platform_machine": "x86_64"},
    "Linux arm64": {"sys_platform": "linux", "platform_machine": "aarch64"},
    "Windows": {"sys_platform": "win32", "platform_machine": "AMD64"},
    "Mac arm64": {"sys_platform": "darwin", "platform_machine": "arm64"},
}


def requirements(lines: list[str]) -> dict[str, Requirement]:
    parsed = [Requirement(line) for line in lines]
    return {r.name: r for r in parsed}


@pytest.fixture(scope="module")
def pip() -> dict[str, Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return requirements(project["dependencies"] + project["optional-dependencies"]["dev"])


@pytest.fixture(scope="module")
def conda() -> dict[str, Requirement]:
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (from_pip,) = (entry["pip"] for entry in listed if isinstance(entry, dict))
    plain = [entry for entry in listed if isinstance(entry, str)]
    own = {"python", "pip"}
    found = requirements([line for line in plain if Requirement(line).name not in own])
    found = {CONDA_NAMES.get(name, name): requirement for name, requirement in found.items()}
    return found | requirements([line for line in from_pip if not line.startswith("--editable")])


def test_environments_hold_the_same_packages_and_bounds(pip, conda):
    assert set(pip) == set(conda)
    for name, requirement in pip.items():
        assert requirement.specifier == conda[name].specifier, name
        assert requirement.marker == conda[name].marker, name


def test_bounds_are_lower_bounds(pip):
    for requirement in pip.values():
        assert [spec.operator for spec in requirement.specifier] == [">="], requirement


@pytest.mark.parametrize("machine", MACHINES)
def test_each_machine_gets_one_decord(pip, machine):
    def applies(requirement: Requirement) -> bool:
        return requirement.marker is None or requirement.marker.evaluate(MACHINES[machine])

    assert sum(applies(pip[name]) for name in ("decord", "decord2")) == 1


def test_the_chosen_packages_are_asked_for(pip):
    assert set(USER_CHOICE) <= set(pip)


def test_python_bounds_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert f"python{project['requires-python']}" in listed["dependencies"]
    assert listed["channels"] == ["conda-forge", "nodefaults"]


def test_the_demo_installs_no_test_tools_and_the_tests_install_once():
    def installs(*words: str) -> list[str]:
        command = ["make", "--dry-run", "--always-make", "UV=", *words]
        shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return [line for line in shown.stdout.splitlines() if "pip install" in line]

    (demo,) = installs("demo", "TORCH=cpu")
    assert demo.endswith("--extra-index-url https://download.pytorch.org/whl/cpu --editable .")
    (tests,) = installs("dev", "check", "test")
    assert tests.endswith('--editable ".[dev]"')
