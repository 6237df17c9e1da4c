"""Which variant is better: comparisons over seeds, effects, curves and their figures.

In go rows of results, one a variant and seed; out come differences with intervals, and figures.
Read `statistics.py` first, then `paired.py` for the arithmetic of fixed seeds, and `sequential.py`
for seeds that go on until the verdict, whose errors `false_alarms.py` simulates.
"""
