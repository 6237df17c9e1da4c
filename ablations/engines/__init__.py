"""Where jobs run: in this process, in worker processes, or on the machines of a Ray cluster.

In go jobs and places; out come results as they finish, whatever became of a worker.
Read `dispatch.py` first, which chooses the engine, then `local.py`; `job.py` is what a job does.
"""
