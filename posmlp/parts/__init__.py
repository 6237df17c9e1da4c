"""Parts of a model that say nothing about relations: stem, input, stochastic depth, first values.

In: a configuration. Out: modules and functions that the model puts together. Read `stem.py` first.
"""
