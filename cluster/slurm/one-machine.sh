#!/usr/bin/env bash
# A Slurm of one machine, to try job.sbatch without a cluster: munged, slurmctld and one or more
# slurmd, with everything they write in one folder. No systemd, no cgroups, no database.
#
#   cluster/slurm/one-machine.sh start FOLDER     then: export SLURM_CONF=FOLDER/slurm.conf
#   cluster/slurm/one-machine.sh stop FOLDER
#
# Needs Debian's packages slurm-wlm and munge. Whoever starts it is its administrator and the only
# one who can submit jobs, unless it is root.
#
# NODES (default 1) slurmd are started, and CPUS (default 8) promised by each whatever the machine
# has, so that a job of some tasks fits on a laptop (`sbatch --cpus-per-task=1`). The names of
# several nodes do not resolve: tell job.sbatch SWIRL_CONTROLLER=127.0.0.1. KILL_WAIT (default 30)
# is how many seconds a cancelled job has between SIGTERM and SIGKILL. With GPUS=N every node has N
# devices that Slurm counts and binds as GPUs (CUDA_VISIBLE_DEVICES is set), though nothing can
# compute on them.
set -euo pipefail

usage() {
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0" >&2
    exit 2
}

[[ $# == 2 ]] || usage
folder=$(mkdir -p "$2" && cd "$2" && pwd -P)

configure() {
    local host nodes types='' devices=''
    host=$(hostname -s)
    if ((${GPUS:-0} > 0)); then
        types=GresTypes=gpu
        devices=Gres=gpu:$GPUS
    fi
    # One node bears the machine's own name, which resolves; several need names of their own.
    if ((${NODES:-1} == 1)); then
        nodes="NodeName=$host NodeAddr=127.0.0.1 Port=${SLURMD_PORT:-16818}"
    else
        local first=${SLURMD_PORT:-16818}
        nodes="NodeName=$host-[1-$NODES] NodeHostname=$host NodeAddr=127.0.0.1"
        nodes+=" Port=[$first-$((first + NODES - 1))]"
    fi
    cat >"$folder/slurm.conf" <<CONF
ClusterName=one-machine
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=${SLURMCTLD_PORT:-16817}
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool-%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd-%n.log
# Containers have no cgroups to give away: processes are followed by their parents.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
# What is promised below counts, not what the machine has.
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
KillWait=${KILL_WAIT:-30}
$types
$nodes CPUs=${CPUS:-8} State=UNKNOWN $devices
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
    if ((${GPUS:-0} > 0)); then
        for ((i = 0; i < GPUS; i++)); do
            ln -sf /dev/null "$folder/gpu$i"
        done
        echo "Name=gpu File=$folder/gpu[0-$((GPUS - 1))]" >"$folder/gres.conf"
    fi
}

start() {
    [[ ! -e $folder/slurm.conf ]] || {
        echo "$folder has one already: stop it, or take another folder" >&2
        exit 1
    }
    mkdir -p "$folder"/{munge,state}
    chmod 700 "$folder/munge"
    configure
    (umask 077 && head -c 1024 /dev/urandom >"$folder/munge/key")
    munged --force --num-threads=2 --key-file="$folder/munge/key" \
        --socket="$folder/munge/socket" --pid-file="$folder/munge/pid" \
        --log-file="$folder/munge/log" --seed-file="$folder/munge/seed"
    export SLURM_CONF=$folder/slurm.conf
    slurmctld -f "$SLURM_CONF"
    local node
    for node in $(scontrol show hostnames "$(sed -n 's/^NodeName=\([^ ]*\) .*/\1/p' "$SLURM_CONF")"); do
        mkdir -p "$folder/spool-$node"
        slurmd -f "$SLURM_CONF" -N "$node"
    done
    local tries
    for ((tries = 0; tries < 60; tries++)); do
        if [[ $(sinfo --noheader --Node --states=idle 2>/dev/null | wc -l) == "${NODES:-1}" ]]; then
            sinfo
            echo "export SLURM_CONF=$SLURM_CONF"
            return
        fi
        sleep 0.5
    done
    echo "not all nodes are up after 30 s: see the logs in $folder" >&2
    sinfo --Node --long >&2 || true
    exit 1
}

# Cancels the jobs first, which would outlive their slurmd; then ends only what it has started, by
# the process ids that the folder holds.
stop() {
    local file tries
    export SLURM_CONF=$folder/slurm.conf
    [[ -e $SLURM_CONF ]] || {
        echo "$folder has none" >&2
        exit 1
    }
    scancel --user="$(id -un)" || true
    for ((tries = 0; tries < 120; tries++)); do
        [[ -n $(squeue --noheader 2>/dev/null) ]] || break
        sleep 0.5
    done
    for file in "$folder"/slurmd-*.pid "$folder/slurmctld.pid" "$folder/munge/pid"; do
        [[ -s $file ]] && kill "$(cat "$file")" 2>/dev/null || true
    done
    for file in "$folder"/slurmd-*.pid "$folder/slurmctld.pid" "$folder/munge/pid"; do
        while [[ -s $file ]] && kill -0 "$(cat "$file")" 2>/dev/null; do
            sleep 0.2
        done
    done
    rm -rf "$folder"
}

case $1 in
    start) start ;;
    stop) stop ;;
    *) usage ;;
esac
