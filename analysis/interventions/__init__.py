"""What a model relies on: its tables are changed, and its answers compared.

In go a model, interventions and clips; out come rows of accuracy lost, and changed tables.
Read `interventions.py` first, then `intervene.py`.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
