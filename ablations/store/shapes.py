"""What the stored JSON files must hold for their readers, in the words of `posmlp.shapes`."""

from __future__ import annotations

_NUMBER = int | float

PLAN = {
    "question": str,
    "prediction": str,
    "design": str,
    "axes": [str],
    "seeds": [int],
    "left_out_seeds?": [int],
    "repeats?": [[str | int]],
    "match?": str | None,
    "metrics?": [[str]],
    "equal_within?": _NUMBER | None,
    "until?": list | None,
    "baseline": str,
    "cells": [
        {
            **{"id": str, "name": str, "axes": dict},
            **{"tuned?": dict | None, "num_seeds?": int, "verdict?": str | None},
            **{"test_clips?": int},
        }
    ],
    "trials?": {
        "seeds": [int],
        "values": {"*": list},
        "cells": [
            {"id": str, "name": str, "axes": dict, "of": int, "tuned": dict, "untuned": bool}
        ],
    },
    "command": str,
}
CELL = {
    "name": str,
    "axes": dict,
    "model": dict,
    "train": dict,
    "data": {"spec": str, "identity": str},
    "identity": dict,
    "init_sha256?": str,
}
_RESULT = {
    "repeat?": int,
    "timings": {"started": str, "finished": str, "seconds": _NUMBER},
    "worker": {"device": str, "num_threads": int, "host": str},
    "log?": str,
    "command": str,
    "traceback?": str | None,
    "history?": str | None,
    "peak_memory_mb?": _NUMBER | None,
    "together?": int,
    "memory_steps?": [str],
    "environment?": {"packages?": dict, "commit?": str | None},
}
RESULTS = {
    "done": _RESULT | {"metrics": {"*": _NUMBER}},
    "failed": _RESULT | {"metrics": {"*": _NUMBER | None}, "failure": str, "reason": str | None},
}
"""By status."""
PUBLISHED = {
    "plan": dict,
    "cells": {"*": dict},
    "configs": [dict],
    "environments": [dict],
    "trainings": [{"cell": str, "seed": int, "repeat?": int, "config?": int, "environment?": int}],
    "classes": [dict],
    "curves_sha256": str,
}
POPULATION = {"variants": dict, "seeds": [int]}
"""What tells which trainings a folder below together/ holds."""
PROBE = {"seconds": _NUMBER, "memory_mb": _NUMBER | None}
