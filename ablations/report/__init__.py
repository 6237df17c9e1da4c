"""What a finished folder says: a page, its tables, and a small copy to keep.

In goes an ablation's folder; out come one HTML file and its tables. Nothing is trained for them.
Read `page.py` first: `data.py` reads the folder, `words.py` writes the sentences, and `publish.py`
makes the copy.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
