"""What a model answers, for people: annotated videos, lines of time, pages, how far to trust it.

In go predictions, frames, logits or a shipped model; out come an mp4, a png or a page. Read
`annotate.py` first; `knob.js` runs a model in the page that `knob_page.py` makes.
"""
