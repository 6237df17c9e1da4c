"""What a clip's label becomes when the clip is flipped left to right. No torch."""

from __future__ import annotations

import re
from collections.abc import Sequence

_OPPOSITE = {
    "left": "right",
    "right": "left",
    "clockwise": "counterclockwise",
    "counterclockwise": "clockwise",
    "anticlockwise": "clockwise",
    "leftward": "rightward",
    "rightward": "leftward",
}
_DIRECTION = re.compile(rf"\b({'|'.join(_OPPOSITE)})(s?)\b", re.IGNORECASE)

# Something-Something's own numbers, where only they are known: pulling, pushing, turning.
# Source: the label-aware flip of the temporal shift module's repository (mit-han-lab).
_SOMETHING_CLASSES = tuple(str(label) for label in range(174))
_SOMETHING_SWAPS = {86: 87, 87: 86, 93: 94, 94: 93, 166: 167, 167: 166}


def mirror_of(classes: Sequence[str]) -> tuple[int, ...] | None:
    """Return the label of each class's mirror image: its own for all but 'left' and the like.

    Classes are recognised by their names; 174 nameless classes are Something-Something's. None
    means that a class names a direction and its mirror image is no class: do not flip its clips.
    """
    if tuple(classes) == _SOMETHING_CLASSES:
        return tuple(_SOMETHING_SWAPS.get(label, label) for label in range(len(classes)))
    label_of = {name.lower(): label for label, name in enumerate(classes)}
    mirrored = [label_of.get(_mirrored(name)) for name in classes]
    found = tuple(label for label in mirrored if label is not None)
    return found if len(found) == len(classes) else None


def _mirrored(name: str) -> str:
    return _DIRECTION.sub(lambda word: _OPPOSITE[word[1]] + word[2], name.lower())
