"""What a model learned: its mixing weights by offset, as rows and as figures.

In goes a model or a run folder; out come tidy rows of maps, of their statistics and of their
history. Read `maps.py` first; the `draw_*` files take its rows.
"""
