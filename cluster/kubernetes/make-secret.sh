#!/usr/bin/env bash
# Makes certificates for the pods and puts them into the Secret `swirl-certs`.
#
#   cluster/kubernetes/make-secret.sh [FOLDER]      FOLDER (default certs/kubernetes) keeps them
#
# SAMPLERS (default 2), LEARNERS (1) and TOOLS (1) say for how many pods. Run again with more of
# them, it adds what is missing. The key of the authority stays in FOLDER: whoever has it can admit
# nodes. It never enters the cluster, and FOLDER belongs into no repository.
set -euo pipefail

folder=${1:-certs/kubernetes}
namespace=${NAMESPACE:-swirl}
swirl=${SWIRL:-swirl}

umask 077
mkdir -p "$folder"
# The authority is made once: another one would not know the certificates of before.
if [[ ! -e $folder/.made ]]; then
    "$swirl" certs init --dir "$folder"
    touch "$folder/.made"
fi

files=()
issue() {
    local name=$1 roles=$2
    [[ -e $folder/$name/key.pem ]] || "$swirl" certs issue "$name" --role "$roles" --dir "$folder"
    files+=("--from-file=$name.cert.pem=$folder/$name/cert.pem"
        "--from-file=$name.key.pem=$folder/$name/key.pem")
    authority=$folder/$name/ca.pem
}

# As the controller's pod is named, and by the numbers of the other pods within their Jobs.
issue_all() {
    local i
    for ((i = 0; i < $2; i++)); do
        issue "swirl-$1-$i" "$3"
    done
}

issue_all controller 1 controller
issue_all learner "${LEARNERS:-1}" learner
issue_all sampler "${SAMPLERS:-2}" sampler
issue_all tool "${TOOLS:-1}" tool,judge

# Those that `swirl certs revoke` shut out; pods take the list as they start.
if [[ -e $folder/revoked ]]; then
    files+=("--from-file=revoked=$folder/revoked")
fi

kubectl get namespace "$namespace" >/dev/null 2>&1 || kubectl create namespace "$namespace"
# On the server's side: the other way would keep a copy of the keys in an annotation.
kubectl create secret generic swirl-certs --namespace "$namespace" \
    --from-file="ca.pem=$authority" "${files[@]}" --dry-run=client --output=yaml |
    kubectl apply --server-side --force-conflicts --filename=-
