"""Everything about one run on a page, and about all runs of a variant in a table.

In goes a run folder; out comes one HTML file that needs no network. Read `page.py` first, then
`sections.py`.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
