"""What is done when memory runs out. Never another batch, nor another number of steps.

First fewer jobs at once on the device, which the engines see to, then fewer trainings together,
then micro-batches whose gradients are summed; then the cell fails. Every step is in its row.
"""

from __future__ import annotations

from dataclasses import replace

from ablations.engines.processes import Outcome, WorkerDied
from ablations.grid.grid import Job
from ablations.store.store import OUT_OF_MEMORY


def is_out_of_memory(outcome: Outcome) -> bool:
    """Whether a job ended because memory ran out; a worker's death tells nothing."""
    if isinstance(outcome, WorkerDied):
        return False
    return any(result.get("failure") == OUT_OF_MEMORY for result in outcome)


def with_step(job: Job, step: str) -> Job:
    """The job, with what is done about its memory noted."""
    return replace(job, memory_steps=(*job.memory_steps, step))


def lighter(job: Job) -> list[Job]:
    """The same trainings in less memory; none if there is no way left."""
    batch_size = job.cells[0].train.batch_size
    for many in ("cells", "seeds"):
        of_them = getattr(job, many)
        if len(of_them) > 1:
            half = (len(of_them) + 1) // 2
            parts = [replace(job, **{many: of_them[:half]}), replace(job, **{many: of_them[half:]})]
            step = f"together {len(job.trainings)} -> {len(parts[0].trainings)}"
            return [with_step(part, step) for part in parts]
    if job.micro_batches < batch_size:
        more = min(2 * job.micro_batches, batch_size)
        less = with_step(job, f"micro-batches {job.micro_batches} -> {more}")
        return [replace(less, micro_batches=more)]
    return []
