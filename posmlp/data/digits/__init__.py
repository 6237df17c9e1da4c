"""Moving digits: generated clips whose classes come in time-reversed pairs.

In go a seed, a split and a difficulty; out come clips, or a folder of video files.
Read `moving_digits.py` first: `scenes.py` says what a clip shows, and `sprites.py` what it is made
of.
"""
