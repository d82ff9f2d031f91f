#!/usr/bin/env bash
# What one task of job.sbatch does; srun starts it on every one.
#
#   rank.sh plan           prints `RANK MACHINE NAME ROLES` of this task
#   rank.sh run CONFIG …   is that node of the run, until the run is done
#
# Task 0 is the controller, then come SWIRL_LEARNERS (default 1) learners, then SWIRL_TOOLS
# (default 1) tasks that run tools and judges; all others are samplers.
set -euo pipefail

learners=${SWIRL_LEARNERS:-1}
tools=${SWIRL_TOOLS:-1}
samplers=$((SLURM_NTASKS - 1 - learners - tools))
# Exit code of a node whose engine stays sick, and of a process whose GPU works no more.
sick=75
gpu_lost=4

fail() {
    echo "error: task $SLURM_PROCID on $SLURMD_NODENAME: $*" >&2
    exit 2
}

roles_of() {
    if (($1 == 0)); then
        echo controller
    elif (($1 <= learners)); then
        echo learner
    elif (($1 <= learners + tools)); then
        echo tool,judge
    else
        echo sampler
    fi
}

# The machine's name in Slurm and the task's number on it, in the letters that a node's name may have.
name() {
    if ((SLURM_PROCID == 0)); then
        echo controller
        return
    fi
    local machine
    machine=$(tr 'A-Z' 'a-z' <<<"$SLURMD_NODENAME" | tr -c 'a-z0-9\n' '-')
    # 63 at most, and the beginning of a long name tells the least.
    ((${#machine} <= 50)) || machine=${machine: -50}
    machine=${machine#"${machine%%[!-]*}"}
    echo "$machine-$SLURM_LOCALID"
}

uses_gpu() {
    [[ $1 == learner || $1 == sampler ]]
}

# Where Slurm binds one GPU to each task, that is the only one this task sees. Where all tasks of a
# machine see all of them, each that uses one takes the next.
device() {
    local visible=${CUDA_VISIBLE_DEVICES:-}
    if [[ -n ${SWIRL_DEVICE:-} ]]; then
        echo "$SWIRL_DEVICE"
    elif [[ -z $visible || $visible == NoDevFiles ]]; then
        echo auto
    elif [[ $visible != *,* ]]; then
        echo cuda:0
    else
        local index=0 rank machine roles commas=${visible//[!,]/}
        while read -r rank machine _ roles; do
            if [[ $machine == "$SLURMD_NODENAME" ]] && ((rank < SLURM_PROCID)) && uses_gpu "$roles"; then
                index=$((index + 1))
            fi
        done <"$SWIRL_JOB_DIR/plan"
        ((index <= ${#commas})) ||
            fail "no GPU is left for it: $visible are taken. Ask for fewer tasks on a machine" \
                "(--ntasks-per-node)"
        echo "cuda:$index"
    fi
}

# Once the run is done, a node has 90 s to hear of it; then it is told to end.
end_late() {
    local waited
    until [[ -e $SWIRL_JOB_DIR/done ]]; do sleep 5; done
    for ((waited = 0; waited < 90; waited += 5)); do sleep 5; done
    kill -TERM "$1"
}

# Runs a command; when a signal has ended it that was not meant for this task, runs it again, since
# every part goes on where it was. An exit code of its own is final, but for two. A node whose engine
# stays sick is started again without end, since its controller gives it work ever more rarely. A new
# process may have the GPU that an old one has lost.
keep_up() {
    local tries child code late
    stopped=
    # Slurm sends a signal to every process of a task, hence to the program too.
    trap 'stopped=yes' TERM
    for ((tries = 1; tries <= 10; tries++)); do
        "$@" &
        child=$!
        code=0
        # Its output is nobody's: srun waits for the end of a task's.
        end_late "$child" >/dev/null 2>&1 &
        late=$!
        wait "$child" || code=$?
        kill "$late" 2>/dev/null || true
        if [[ -n $stopped ]]; then
            # The signal has interrupted `wait`, the program may still be tidying up. Not a failure:
            # a failure would have srun kill the others.
            wait "$child" || true
            exit 0
        fi
        # Told to end above.
        [[ $code != 3 || ! -e $SWIRL_JOB_DIR/done ]] || exit 0
        if ((SLURM_PROCID == 0 && code == 0)); then
            touch "$SWIRL_JOB_DIR/done"
        fi
        if ((code == sick)); then
            tries=0
            echo "task $SLURM_PROCID: an engine stays sick, start in 5 s" >&2
        elif ((code == gpu_lost)); then
            echo "task $SLURM_PROCID: its GPU works no more, start $((tries + 1)) in 5 s" >&2
        else
            ((code > 128)) || exit "$code"
            echo "task $SLURM_PROCID: ended by signal $((code - 128)), start $((tries + 1)) in 5 s" >&2
        fi
        sleep 5 &
        wait $! || true
        [[ -z $stopped ]] || exit 0
    done
    fail "ended by signals, or without its GPU, ten times"
}

run() {
    local config=$1 roles name
    shift
    roles=$(roles_of "$SLURM_PROCID")
    name=$(name)
    # As many threads as Slurm gave it cores: it shares the machine with other tasks.
    if [[ -n ${SLURM_CPUS_PER_TASK:-} ]]; then
        export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}
    fi
    if [[ $roles == controller ]]; then
        keep_up "$SWIRL" run "$config" "$@" --listen "[::]:$SWIRL_PORT" \
            --certs "$SWIRL_JOB_DIR/certs/$name" --resume \
            "cluster.wait_for.sampler=$samplers" "cluster.wait_for.learner=$learners" \
            "cluster.wait_for.tool=$tools" "cluster.wait_for.judge=$tools"
    fi
    # By rank: the same after the job was queued again, whatever machine it is then.
    local folder=$SWIRL_JOB_DIR/nodes/$SLURM_PROCID
    mkdir -p "$folder"
    local node=(node --role "$roles" --join "$SWIRL_CONTROLLER:$SWIRL_PORT"
        --certs "$SWIRL_JOB_DIR/certs/$name" --dir "$folder")
    if uses_gpu "$roles"; then
        local device
        device=$(device)
        node+=(--device "$device")
    fi
    keep_up "$SWIRL" "${node[@]}"
}

case ${1:-} in
    plan)
        ((samplers >= 1)) ||
            fail "$SLURM_NTASKS tasks are too few for a controller, $learners learner(s)," \
                "$tools for tools and judges, and a sampler"
        command -v "$SWIRL" >/dev/null || fail "there is no program $SWIRL: set SWIRL to its path"
        echo "$SLURM_PROCID $SLURMD_NODENAME $(name) $(roles_of "$SLURM_PROCID")"
        ;;
    run)
        shift
        run "$@"
        ;;
    *)
        fail "usage: rank.sh plan, or rank.sh run CONFIG.toml [section.key=value …]"
        ;;
esac
