#!/bin/bash
# A Slurm of one's own: `unshare … bash lab.sh DIRECTORY CHECKOUT NODE:GPUS…` is the login node (slurmctld, munged, a
# bridge) and the first process of a PID namespace. Each compute node is a network, UTS and mount namespace with its own
# address, host name and /tmp. All of it ends with this process; nothing of the host is changed.
set -euo pipefail
lab=$1 checkout=$2
shift 2
export SLURM_CONF=$lab/slurm.conf

one_node() {  # runs in the node's namespaces, with the cable that the login node plugged in
    name=$1 address=$2
    while ! ip link show plug >/dev/null 2>&1; do sleep 0.05; done
    hostname "$name"
    ip link set lo up
    ip link set plug name eth0
    ip address add "$address/24" dev eth0
    ip link set eth0 up
    private=$lab/tmp/$name
    mkdir -p -m 1777 "$private"
    if [[ $checkout == /tmp/* ]]; then
        mkdir -p "$private/${checkout#/tmp/}"
        mount --bind "$checkout" "$private/${checkout#/tmp/}"
    fi
    mount --rbind "$private" /tmp
    mount --bind "$lab/hosts" /etc/hosts
    if mknod -m 666 "$lab/fuse-$name" c 10 229 2> /dev/null; then # images are mounted by ordinary users
        mount --bind "$lab/fuse-$name" /dev/fuse || true
    fi
    exec slurmd -D -N "$name" -L "$lab/log/$name.log"
}

mount --make-rprivate /
hostname login
ip link set lo up
ip link add bridge type bridge
ip address add 10.77.0.1/24 dev bridge
ip link set bridge up
mount --bind "$lab/hosts" /etc/hosts
munged --foreground --force --key-file="$lab/munge/key" --socket="$lab/munge/socket" --pid-file="$lab/munge/pid" \
    --log-file="$lab/log/munged.log" --seed-file="$lab/munge/seed" &
while ! [[ -S $lab/munge/socket ]]; do sleep 0.05; done
slurmctld -D -c -L "$lab/log/slurmctld.log" &

export lab checkout
export -f one_node
number=1
for node in "$@"; do
    number=$((number + 1))
    unshare --net --uts --mount bash -euc "one_node ${node%%:*} 10.77.0.$number" &
    while [[ $(readlink /proc/$!/ns/net) == "$(readlink /proc/$$/ns/net)" ]]; do sleep 0.05; done
    ip link add "port$number" type veth peer name plug netns $!
    ip link set "port$number" master bridge up
done
touch "$lab/started"
wait
