from .layouts import (
    LAYOUTS as LAYOUTS,
    list_videos as list_videos,
    read_listing as read_listing,
    split_spec as split_spec,
)
