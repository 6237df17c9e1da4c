"""Pictures of what a model answers: a video with its classes below it, and a line of time.

In go predictions and frames; out come an mp4 or a png. Read `annotate.py` first.
"""
