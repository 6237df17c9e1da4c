"""Where in a model the answer arises: its activations, and what is left when some are exchanged.

In go a model and clips; out come named tensors, tidy rows, or a model with its arrow of time
turned. Read `activations.py` first, then `patching.py` and `arrow.py`; `paths.py` follows a
difference from branch to branch, `readout.py` and `tuning.py` ask what each stage tells.
"""
