"""The other gates, beside the paper's unit in `posmlp.gating`: one idea a file.

In: width, window and number of groups. Out: a `GatingUnit`, or a relation for the paper's unit.
Read `registry.py` first: it names all gates and makes the one that a configuration asks for.
"""
