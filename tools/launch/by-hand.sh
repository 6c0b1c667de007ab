#!/bin/bash
# A job over ssh, one process a host, each with all of its host's GPUs:
#
#   tools/launch/by-hand.sh node1,node2 python train.py PRESET --workdir /shared/RUN --distributed
#
# Every host has this folder at the same place, the same Python, and keys for ssh. The first one leads. Ctrl-C stops all.
set -u
(($# >= 2)) || { echo "usage: tools/launch/by-hand.sh HOST,HOST,... COMMAND" >&2 && exit 2; }
IFS=, read -ra hosts <<<"$1"
shift

port=${PORT:-$((20000 + RANDOM % 12000))} # below those that Linux gives to connections; a new one each start
command=$(printf '%q ' "$@")
variables="JAX_COORDINATOR_ADDRESS=${hosts[0]}:$port JAX_NUM_PROCESSES=${#hosts[@]}"
variables+=" PATH=$(printf %q "$PATH") XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-.92}"

for index in "${!hosts[@]}"; do
    # With a terminal (-tt), a process gets SIGHUP when ssh ends here, however that is.
    ${SSH:-ssh -tt} "${hosts[index]}" "cd $(printf %q "$PWD") && env $variables JAX_PROCESS_ID=$index $command" </dev/null &
done

# The first process that fails ends the others, with its own code.
code=0
for _ in "${hosts[@]}"; do
    wait -n
    last=$?
    ((code)) || code=$last
done
exit "$code"
