#!/bin/bash -l
#SBATCH --job-name='it'"'"'s "quoted"; rm -rf $HOME `id` $(id) #1'
#SBATCH --account=pr_123_general
#SBATCH --constraint='h200|l40s'
#SBATCH --gres=gpu:4
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=120G
#SBATCH --time=08:00:00
#SBATCH --signal=B:USR1@180
#SBATCH --output='/shared/100%% of '"'"'my'"'"' "results" $HOME/problem4/slurm/%j.log'
#SBATCH --export=NIL
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --comment='preemption=yes;requeue=true'
# Rendered by `farm submit`. What starts what is drawn in docs/cluster.md.
set -uo pipefail
unset SLURM_EXPORT_ENV SBATCH_EXPORT PYTHONPATH PYTHONHOME "${!RAY_@}"  # RAY_*: another cluster's address or token
module purge
module load cuda

code=/opt/farm
python=/opt/venv/bin/python
ledger='/shared/100% of '"'"'my'"'"' "results" $HOME/problem4'
run=(farm/run.py problem=4 'data_root=/data/it'"'"'s here' 'title=$(touch /tmp/x) `id` "&& exit"' 'é=ü')
nodes=2 cpus=16
node_options=(--cpus 16 --gpus 4 --memory-gib 120 --temporary /tmp)
shared=$ledger/slurm/$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}  # token, address, readiness; only this user can enter

# The token is in a file and nowhere else: no variable, command line or log holds it.
mkdir -p "$ledger/slurm" && mkdir -m 700 "$shared" || exit 3
trap 'rm -rf "$shared"' EXIT
( umask 077; od -An -N32 -tx1 /dev/urandom | tr -d ' \n' > "$shared/token" )
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$shared/token PYTHONNOUSERSITE=1 FARM_COMMIT=0123456789ab
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
    exec apptainer exec --cleanenv --no-home --writable-tmpfs --nv --bind '/shared/100% of '"'"'my'"'"' "results" $HOME' --bind '/data/it'"'"'s here' --pwd "$code" "$FARM_IMAGE" "$@"
}

node() {  # the Ray of one node, for as long as the job wants it
    inside "$python" -m farm.slurm.node "$1" --shared "$shared" "${node_options[@]}"
}

# srun forgets --cpus-per-task of the job, and a step without --overlap would wait for the one before it.
{ declare -p code python shared node_options; declare -f inside node; } > "$shared/node.sh"
step() {  # step HOST head|worker: started again when it dies, but not without end
    local tries
    for tries in 1 2 3 4; do
        srun --overlap --export=ALL --nodes=1 --ntasks=1 --cpus-per-task="$cpus" --nodelist="$1" \
            bash -c '. "$1"; node "$2"' farm-node "$shared/node.sh" "$2"
        [[ -e $shared/stop || $2 == head ]] && break
        echo "farm: Ray on $1 ended; starting it again"
        sleep 2
    done
    echo "$2 on $1" >> "$shared/ended"
}

signalled='' driver=''
drain() {
    signalled=$1
    echo "farm: $1 received; draining"
    [[ -n $driver ]] && kill -USR1 "$driver"
}
trap 'drain USR1' USR1
trap 'drain TERM' TERM

requeue() { ( inside "$python" -m farm.slurm.requeue "$ledger" "$@" ) }  # progress, or what to do after an end

before=$(requeue)
mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
steps=()
step "${hosts[0]}" head & steps+=($!)
for host in "${hosts[@]:1}"; do step "$host" worker & steps+=($!); done

code_of_run=75
deadline=$((SECONDS + 600))
up_or_gone() { find "$shared" -name 'ready-*'; cat "$shared/ended" 2>/dev/null; }
until [[ $(up_or_gone | wc -l) -ge $nodes || -n $signalled ]]; do
    if ((SECONDS > deadline)); then
        echo "farm: of ${hosts[*]} not all have joined; going on with those that have"
        break
    fi
    sleep 0.5
done
if [[ -z $signalled && -s $shared/address ]]; then
    ( inside "$python" "${run[@]}" ray_address="$(cat "$shared/address")" ) &
    driver=$!
    [[ -n $signalled ]] && kill -USR1 "$driver"
    while kill -0 "$driver" 2> /dev/null; do wait "$driver"; done  # each signal that is trapped ends `wait` early
    wait "$driver"  # bash remembers how it ended
    code_of_run=$?
fi
head_lost=''
for _ in {1..30}; do
    grep -qs '^head' "$shared/ended" && head_lost=--head-lost && break
    ((code_of_run == 3)) || break  # a driver that cannot connect may end before the head's step does
    sleep 0.5
done

touch "$shared/stop"  # the nodes' Ray ends now, by process id
for _ in {1..60}; do
    jobs -pr | grep -qxF "$(printf '%s\n' "${steps[@]}")" || break
    sleep 0.5
done

read -r action code_of_job < <(requeue --code "$code_of_run" --before "${before:-0}" \
    --restarts "${SLURM_RESTART_COUNT:-0}" $head_lost)
echo "farm: the run ended with $code_of_run, the job with ${code_of_job:-$code_of_run}"
if [[ ${action-} == requeue && $signalled != TERM ]]; then  # TERM: cancelled, or Slurm requeues by itself
    echo "farm: the study is not complete; the job goes back into the queue"
    scontrol requeue "$SLURM_JOB_ID" || echo "farm: Slurm did NOT take it back; the same farm submit goes on from here"
fi
exit "${code_of_job:-$code_of_run}"
