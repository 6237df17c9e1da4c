"""Parts of a model that say nothing about relations: stem, image input, stochastic depth, starts.

In: a configuration. Out: modules and functions that the model puts together. Read `stem.py` first.
"""
