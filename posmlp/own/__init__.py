"""Code of the user's own, from a file: of a model (gate, branch, whole) or of its training.

In: a name, `file.py:Thing` or `module:Thing`. Out: its source, which goes wherever the model's
configuration goes, and what it means, once that may run. No torch here: `posmlp.parts.own_parts`
makes modules of it, and data, metrics and augmentation stand with ours. Read `names.py` first.
"""
