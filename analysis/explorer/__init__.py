"""The bias explorer: the rows of a relation, walked through by key press.

In go one model or two; out comes a widget, which also writes itself into an HTML file.
Read `explorer.py` first; `units.py` gathers what it shows, and `explorer.js` draws it.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
