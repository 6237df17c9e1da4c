"""Parts of a model that say nothing about relations: stem, image input, stochastic depth, starts.

In: a configuration. Out: modules and functions that `posmlp.model` puts together. Read `stem.py`
first, then whatever `model.py` names.
"""
