"""Code of the user's own in a model: a gate, a branch, or a whole model, from a file.

In: a name, `file.py:Thing` or `module:Thing`. Out: its source, which goes wherever the model's
configuration goes, and what it means, once that may run. No torch here: the modules that are made
of it stand in `posmlp.parts.own_parts`. Read `names.py` first.
"""
