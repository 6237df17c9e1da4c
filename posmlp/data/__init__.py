"""Clips: what they are and where they come from."""

CACHE_GIB = 2.0
"""Decoded frames that the user's cache folder is to hold, unless another number is given."""
CACHE_HELP = "GiB of decoded frames that the user's cache folder is to hold; 0: none"
