"""Where jobs run: in this process, in worker processes, or on the machines of a Ray cluster.

In go jobs and places; out come results as they finish, whatever became of a worker.
`dispatch.py` chooses the engine: read it first, then `local.py`, and `job.py` for what a job does.
"""
