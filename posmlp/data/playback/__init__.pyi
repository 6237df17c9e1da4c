from .playback import CLASSES as CLASSES, Cut as Cut, write_playback as write_playback
