# keep GRACE PROGRAM ARGUMENT…: runs a program until it ends, or the standard input does, which is that
# whoever started this is gone, or wants it to end: then the program gets SIGTERM, and SIGKILL after
# GRACE seconds. Ends with the program's exit code.
keep() {
    set +e
    local grace=$1 child watch code again waited
    shift
    exec 3<&0
    "$@" </dev/null 3<&- &
    child=$!
    {
        # Nothing is ever sent.
        while IFS= read -r _ <&3; do :; done
        kill -TERM "$child"
        for ((waited = 0; waited < grace; waited++)); do
            sleep 1 3<&-
            kill -0 "$child" || exit 0
        done
        kill -KILL "$child"
    } >/dev/null 2>&1 &
    watch=$!
    exec 3<&-
    trap 'kill -TERM "$child" 2>/dev/null' TERM HUP INT
    # A signal interrupts `wait` before the program has ended.
    until
        wait "$child"
        code=$?
        ! kill -0 "$child" 2>/dev/null
    do :; done
    if ((code > 128)); then
        wait "$child" 2>/dev/null
        again=$?
        ((again == 127)) || code=$again
    fi
    kill "$watch" 2>/dev/null
    exit "$code"
}
