"""What a reader turns by hand: the bias explorer, and the page with the knob.

In go one model or two; out comes a widget that walks through the rows of a relation, or an HTML
file in which a small model runs while its arrow of time turns. Read `explorer.py` first;
`units.py` gathers what it shows, and `explorer.js` draws it. Then `knob.py`.
"""
