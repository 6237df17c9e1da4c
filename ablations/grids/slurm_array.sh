#!/bin/bash
# A grid as a Slurm array: each task runs its shard, and all write into one shared folder.
#
#   sbatch --array=1-8 ablations/grids/slurm_array.sh ablations/grids/gates-full.yaml runs/gates
#
# Shards share no training and take no lock. Submitting the same line again goes on where a task was
# stopped; afterwards: ablations status runs/gates; ablations report runs/gates
#SBATCH --job-name=ablations
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=4
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --output=%x-%A-%a.log

set -euo pipefail
grid=${1:?"usage: sbatch --array=1-N slurm_array.sh GRID OUT [options of ablations run]"}
out=${2:?"usage: sbatch --array=1-N slurm_array.sh GRID OUT [options of ablations run]"}
shift 2
ablations run "$grid" --out "$out" --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" "$@"
