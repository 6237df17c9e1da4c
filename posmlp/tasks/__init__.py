"""The paper's two other tasks: action detection, and recognition of micro-expressions.

In goes a trained backbone with a task's clips; out come its scores. Read `detection.py` first, or
`micro_expressions.py`; `python -m posmlp.tasks` runs both.
"""
