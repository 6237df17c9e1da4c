"""The other gates, beside the paper's unit in `posmlp.gating`: one idea a file.

In: width, window and number of groups. Out: a `GatingUnit`, (B, N, 2C) to (B, N, C). Read
`registry.py` first: it names all gates and makes the one that a configuration asks for.
"""
