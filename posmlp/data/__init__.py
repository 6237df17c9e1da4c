"""Clips: what they are and where they come from.

In goes the name of generated clips or a folder of videos; out come batches of uint8 clips with
labels. Read `sources.py` first, then `datasets.py` for files and `digits/` for generated clips.
"""
