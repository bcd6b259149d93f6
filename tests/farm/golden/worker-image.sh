#!/bin/bash -l
#SBATCH --job-name=farm-greene-3f9c1a-gpu2
#SBATCH --gres=gpu:rtx8000:2
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=20
#SBATCH --mem=160G
#SBATCH --time=08:00:00
#SBATCH --signal=B:USR1@180
#SBATCH --output='/scratch/100%% of '"'"'my'"'"' "results" $HOME/.up/greene/%j.log'
#SBATCH --export=NIL
#SBATCH --open-mode=append
#SBATCH --no-requeue
#SBATCH --nice=20
# Rendered by `farm up`: one Ray node, submitted when trials wait for it and cancelled when it is idle.
set -uo pipefail
unset SLURM_EXPORT_ENV PYTHONPATH PYTHONHOME "${!RAY_@}" "${!SBATCH_@}" "${!SQUEUE_@}"
module load cuda

code=/home/me/farm
python=/home/me/farm/.venv/bin/python
shared='/scratch/100% of '"'"'my'"'"' "results" $HOME/.up/greene/cluster'  # token and the head's address; only this user can enter
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$shared/token PYTHONNOUSERSITE=1 FARM_COMMIT=unknown
export FARM_IMAGE='/scratch/my image'"'"'s.sif'

inside() {  # run a command in the image, in place of this shell; Slurm's own commands stay outside
    local name
    for name in TRITON_CACHE_DIR TORCHINDUCTOR_CACHE_DIR MPLCONFIGDIR; do  # by default in HOME, which the image lacks
        [[ -n ${!name-} || -z ${SLURM_JOB_ID-} ]] || export "$name"=/tmp"/r$SLURM_JOB_ID/$name"
    done
    for name in RAY_AUTH_MODE RAY_AUTH_TOKEN_PATH PYTHONNOUSERSITE FARM_COMMIT FARM_IMAGE FARM_UP CUDA_VISIBLE_DEVICES \
        SLURM_JOB_ID SLURM_NODEID SLURMD_NODENAME SLURM_GPUS_ON_NODE TRITON_CACHE_DIR TORCHINDUCTOR_CACHE_DIR \
        MPLCONFIGDIR; do
        [[ -n ${!name-} ]] && export "APPTAINERENV_$name=${!name}" "SINGULARITYENV_$name=${!name}"
    done
    exec apptainer exec --cleanenv --no-home --writable-tmpfs --nv --bind '/scratch/100% of '"'"'my'"'"' "results" $HOME' --pwd "$code" "$FARM_IMAGE" "$@"
}

[[ -s $shared/token ]] || { echo "farm: the farm is down"; exit 0; }
name=''  # the farm may have renamed the job in the queue
for _ in {1..30}; do
    name=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%j) && [[ -n $name ]] && break
    sleep 2
done
[[ -n $name ]] || { echo "farm: squeue does not say which worker this is"; exit 1; }
( inside "$python" -m farm.slurm.node worker --shared "$shared" --cpus 20 --gpus 2 \
    --memory-gib 160 --temporary /tmp \
    --kind gpu2 --instance "${name##*-}" --leave-seconds 120 ) &
node=$!
trap 'kill -USR1 $node' USR1  # the walltime is near: the trial moves elsewhere
trap 'kill -TERM $node' TERM
while kill -0 "$node" 2> /dev/null; do wait "$node"; done  # each signal that is trapped ends `wait` early
wait "$node"  # bash remembers how it ended
exit
