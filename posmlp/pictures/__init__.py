"""Pictures of what a model answers: a video with its classes below it, a line of time, a page.

In go predictions, frames or a shipped model; out come an mp4, a png or a page. Read `annotate.py`
first; `knob.js` runs a model in the page that `knob_page.py` makes.
"""
