"""What a runner costs beside the training itself: ours and others' on one machine.

In go a number of jobs and their length; out come lines of text with the time of each runner.
Read `overhead.py` first; `peers.py` holds the runners, and `grid.py` times whole grids. `scale.py`
times what is done with grids of many cells that have finished.
"""
