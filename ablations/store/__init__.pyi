from .store import Store as Store, StoreError as StoreError
from .table import load as load
