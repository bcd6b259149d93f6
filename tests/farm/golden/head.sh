#!/bin/bash -l
#SBATCH --job-name=farm-greene-3f9c1a-head
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=2
#SBATCH --mem=8G
#SBATCH --time=08:00:00
#SBATCH --signal=B:USR1@180
#SBATCH --output=/scratch/me/results/.up/greene/head.log
#SBATCH --export=NIL
#SBATCH --open-mode=append
#SBATCH --requeue
# Rendered by `farm up`: Ray's head with its autoscaler, in a small job of its own, or in the foreground (head=here).
set -uo pipefail
unset SLURM_EXPORT_ENV PYTHONPATH PYTHONHOME "${!RAY_@}" "${!SBATCH_@}" "${!SQUEUE_@}"  # a profile's would go before ours

code=/home/me/farm
python=/home/me/farm/.venv/bin/python
farm=farm-greene-3f9c1a  # the names of all its jobs begin so
shared=/scratch/me/results/.up/greene/cluster  # token, address, requests; only this user can enter
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$shared/token PYTHONNOUSERSITE=1 FARM_COMMIT=unknown
export FARM_UP=$shared

inside() {  # run a command in place of this shell
    cd "$code" && exec "$@"
}

[[ -s $shared/token ]] || { echo "farm: the farm is down"; exit 0; }
rm -rf "$shared/spool" "$shared/address" && mkdir "$shared/spool" || exit 3
{ declare -px RAY_AUTH_MODE RAY_AUTH_TOKEN_PATH PYTHONNOUSERSITE FARM_COMMIT FARM_UP
  declare -p code python; declare -f inside; } > "$shared/inside.sh"

ask_slurm() {  # Slurm's commands for the autoscaler, which is inside the image: a directory for each request
    local request words
    while sleep 0.2; do
        for request in "$shared"/spool/*.ask; do
            mapfile -d '' -t words 2> /dev/null < "$request/words" || continue
            case ${words[0]-} in sbatch | squeue | scancel | scontrol) ;; *) words=(false) ;; esac
            ( for name in "${!SLURM_@}"; do [[ $name == SLURM_CONF ]] || unset "$name"; done
              timeout 60 "${words[@]}" > "$request/out" 2> "$request/err" < /dev/null
              echo $? > "$request/code" )
            mv "$request" "${request%.ask}.done"
        done
    done
}
cancel() {  # cancel running|all: this farm's workers; fails where Slurm does not answer for a minute
    local jobs number state name
    for _ in {1..30}; do
        if jobs=$(squeue --me --noheader --format='%A %T %j'); then
            while read -r number state name; do
                [[ $name == "$farm"-* && $name != "$farm-head" ]] || continue
                [[ $1 == running && $state == PENDING ]] || scancel "$number"
            done <<< "$jobs"
            return 0
        fi
        sleep 2
    done
    echo "farm: Slurm does not answer; farm down cancels what is left"
    return 1
}
others() {  # steps of this job that run studies
    squeue --noheader --steps --jobs="$SLURM_JOB_ID" --format=%i | grep -v '[a-z]'
}

signalled='' node=''
trap 'signalled=USR1' USR1
trap 'signalled=TERM' TERM INT HUP
ask_slurm & slurm=$!
short=0
until [[ -n $signalled || -e $shared/stop ]]; do
    began=$SECONDS
    rm -f "$shared/address" "$shared/dashboard"
    ( inside "$python" -m farm.slurm.node head --shared "$shared" --config "$shared/cluster.yaml" --cpus 0 --gpus 0 \
        --memory-gib 8 --temporary /tmp ) &
    node=$!
    while kill -0 "$node" 2> /dev/null; do  # a signal that is trapped ends `wait` early
        wait "$node"
        if [[ $signalled == USR1 ]]; then  # the walltime is near: studies drain first
            scancel --signal=USR1 "$SLURM_JOB_ID"
            until=$((SECONDS + 150))  # the rest is for what follows, up to the requeue
            while ((SECONDS < until)) && others > /dev/null; do sleep 1; done
        fi
        [[ -n $signalled ]] && kill "$node" 2> /dev/null
    done
    [[ -n $signalled || -e $shared/stop ]] && break
    if ((SECONDS - began >= 60)); then short=0; elif ((++short >= 3)); then
        echo "farm: the head does not stay up"
        break
    fi
    echo "farm: the head's Ray ended; starting it again"
    sleep 1
done

kill "$slurm"
if [[ $signalled == USR1 ]]; then
    cancel running
    rm -f "$shared/address"
    echo "farm: the head goes back into the queue"
    scontrol requeue "$SLURM_JOB_ID" || echo "farm: Slurm did NOT take it back; the same farm up goes on from here"
    exit 75
fi
touch "$shared/stop"
cancel all && rm -rf "$shared"
