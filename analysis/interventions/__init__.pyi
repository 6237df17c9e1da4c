from .interventions import (
    Intervention as Intervention,
    changed_tables as changed_tables,
    free_tables as free_tables,
    knock_outs as knock_outs,
)
