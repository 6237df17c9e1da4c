"""The released repositories' checkpoints: their names of our parameters, and their configurations.

State dicts of PyTorch go in. Read `names.py` first, then `configs.py`; `load_released`, which uses
both, is in `posmlp/checkpoint.py`.
"""
