#!/bin/bash
# A grid as a Slurm array: its tasks join in one shared folder, and divide the work among them.
#
#   sbatch --array=1-8 ablations/grids/slurm_array.sh ablations/grids/groups.yaml runs/groups
#
# Each takes trainings that no other has taken, and those of a task that died; more tasks may join
# later. Two minutes before its time is over, or when another job needs the place, a task stores the
# middle of its training, exits with code 75, and is queued again, to go on from there. So does the
# same line. Afterwards:
# ablations status runs/groups; ablations report runs/groups
#SBATCH --job-name=ablations
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=4
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%A-%a.log

set -euo pipefail
grid=${1:?"usage: sbatch --array=1-N slurm_array.sh GRID OUT [options of ablations run]"}
out=${2:?"usage: sbatch --array=1-N slurm_array.sh GRID OUT [options of ablations run]"}
shift 2
ablations run "$grid" --out "$out" --join "$@" &
runner=$!
trap 'kill -USR1 "$runner"' USR1 TERM # Slurm signals this script alone
while [ -n "$(jobs -pr)" ]; do
    wait "$runner" || true # which a signal ends early
done
code=0
wait "$runner" || code=$?
if [ "$code" -eq 75 ]; then
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
fi
exit "$code"
