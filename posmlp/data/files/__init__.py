"""Frames out of files: videos, folders of images, and the cache of decoded frames.

In goes a path; out come exact uint8 frames, or an error that names the file.
Read `video.py` first, then `frame_cache.py`.
"""
