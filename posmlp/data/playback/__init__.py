"""Playback: classes made of your own videos by the way in which they are played.

In goes a folder of videos; out comes a data set of short windows. Read `playback.py` first.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
