"""The package's front door."""

from __future__ import annotations

import subprocess
import sys

import pytest

import analysis


def run_python(code: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_import_is_light() -> None:
    heavy = {"torch", "pandas", "matplotlib", "scipy", "fvcore"}
    code = f"import analysis, sys; print(sorted({heavy!r} & set(sys.modules)))"
    assert run_python(code) == "[]"


@pytest.mark.parametrize(
    "first",
    ["import analysis.cost, analysis.bias_maps", "from analysis import cost", "import analysis"],
)
def test_a_function_wins_over_its_file_of_the_same_name(first: str) -> None:
    code = (
        f"{first}; import analysis, types; from analysis.cost import cost as c; "
        "from analysis.bias_maps import bias_maps as b; "
        "assert analysis.cost is c and analysis.bias_maps is b; "
        "from analysis import cost, bias_maps; assert cost is c and bias_maps is b"
    )
    run_python(code)


def test_every_exported_name_exists_and_others_do_not() -> None:
    assert all(callable(getattr(analysis, name)) for name in analysis.__all__)
    with pytest.raises(AttributeError, match="no attribute 'kost'"):
        analysis.kost  # noqa: B018
