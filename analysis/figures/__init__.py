"""What all figures share: style, colours, places for panels, and files of pictures.

In go axes and arrays; out come figures of one look. It knows nothing of models beyond a layout.
Read `style.py` first.
"""
