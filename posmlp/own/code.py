"""Own code that is run, once a process: only what was named here, or is trusted.

Who names a file lets it run (`names.read`). What a folder or a model file brings along runs once it
is trusted, and not before.
"""

from __future__ import annotations

import hashlib
import inspect
import linecache
import sys
import traceback
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from posmlp.config_checks import one_of

FIRST_LINES = 8
"""Of a file that is not trusted, so that the reader sees what it is."""
TRUST_HELP = "run the code that the run brings, such as a gate of your own; read it first"
_TRUSTED: set[str] = set()
_TRUST = {"all": False}


def file_of(name: str) -> str:
    """The file that a name in its short form, `file.py:Thing`, means."""
    return name.rpartition(":")[0]


def digest(source: str) -> str:
    """The SHA-256 of a source."""
    return hashlib.sha256(source.encode()).hexdigest()


def trust(sources: Iterable[str]) -> None:
    """Let these sources run in this process."""
    _TRUSTED.update(map(digest, sources))


def trust_all(asked: bool) -> None:
    """Let any source run that a folder or file brings, if `--trust-code` asks for that."""
    _TRUST["all"] = asked


def trusts_all() -> bool:
    """Whether `--trust-code` was said, for what this process starts."""
    return _TRUST["all"]


def admit(code: Mapping[str, str], where: str | Path, trusted: bool = False) -> None:
    """Raise ValueError, showing the first lines, where code is not trusted; it runs nothing.

    `trusted`: trust it now, and say on stderr that `where` runs by its own copy.
    """
    for file, source in code.items():
        if digest(source) in _TRUSTED:
            continue
        about = f"{file} (sha256 {digest(source)[:12]}, {source.count(chr(10))} lines)"
        if trusted or _TRUST["all"]:
            trust([source])
            print(f"{where} runs its own copy of {about}", file=sys.stderr)
            continue
        first = "".join(f"\n    {line}" for line in source.splitlines()[:FIRST_LINES])
        raise ValueError(
            f"{where} brings code, {about}, which does not run unasked. It begins:{first}\n"
            "Read all of it, and if you trust it give --trust-code, or in Python load it once with "
            "posmlp.load(..., trust_code=True)"
        )


def thing(name: str, code: Mapping[str, str]) -> Any:
    """What a short name means; its file runs once in a process.

    Raises ValueError where the file is not trusted, fails, or has no such name.
    """
    file, _, wanted = name.rpartition(":")
    admit({file: code[file]}, f"{name!r}")
    module = _run(file, code[file])
    if not callable(found := getattr(module, wanted, None)):
        made = ((k, getattr(v, "__module__", "")) for k, v in vars(module).items())
        names = [k for k, home in made if home == module.__name__]
        if not names:
            raise ValueError(f"{file} has no class or function; write {wanted!r} there")
        one_of(wanted, names, f"class or function of {file},")
    return found


@cache
def _run(file: str, source: str) -> ModuleType:
    """The module that a source makes; tracebacks show its lines."""
    made = ModuleType(f"own_{Path(file).stem}_{digest(source)[:8]}")
    made.__file__ = f"{file} (sha256 {digest(source)[:8]})"
    linecache.cache[made.__file__] = (len(source), None, source.splitlines(True), made.__file__)
    sys.modules[made.__name__] = made
    try:
        exec(compile(source, made.__file__, "exec"), vars(made))
    except Exception as error:
        del sys.modules[made.__name__]
        raise ValueError(
            f"{file} cannot be imported: {told(error, file)}. It may import installed packages, "
            "but no file beside it: the model takes along a copy of this one"
        ) from error
    return made


def told(error: BaseException, file: str) -> str:
    """An error, with the line of the user's file that it comes from."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename.startswith(f"{file} (sha256")]
    at = getattr(error, "lineno", None) or (lines[-1] if lines else None)
    first = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {first}" + (f" (line {at})" if at else "")


def called(name: str, code: Mapping[str, str], options: Mapping[str, Any], *given: Any) -> Any:
    """`Thing(*given, **options)`. Raises ValueError that names file, class and signature."""
    made = thing(name, code)
    signature = inspect.signature(made)
    try:
        signature.bind(*given, **options)
    except TypeError as error:
        raise ValueError(
            f"{name} takes {signature}, not {_asked(given, options)}: {error}; mend its def or "
            "__init__, or the options"
        ) from error
    try:
        return made(*given, **options)
    except Exception as error:
        asked = _asked(given, options)
        raise ValueError(f"{name}{asked} fails: {told(error, file_of(name))}") from error


def _asked(given: Iterable[Any], options: Mapping[str, Any]) -> str:
    """Arguments in words; of a tensor its shape."""
    words = [
        f"a tensor {tuple(value.shape)}" if hasattr(value, "shape") else repr(value)
        for value in given
    ]
    return f"({', '.join([*words, *(f'{k}={v!r}' for k, v in options.items())])})"
