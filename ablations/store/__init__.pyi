from .store import Store as Store, StoreError as StoreError, load as load
