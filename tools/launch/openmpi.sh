#!/bin/bash
# A job under Open MPI 4 or 5, one process a host, each with all of its host's GPUs. Run it on the first of the hosts:
#
#   tools/launch/openmpi.sh node1,node2 python train.py PRESET --workdir /shared/RUN --distributed
#
# In an allocation of Slurm, PBS or LSF, `mpirun` knows the hosts: say `-` for them. PROCESSES=8 makes eight a host.
set -eu
(($# >= 2)) || { echo "usage: tools/launch/openmpi.sh HOST,HOST,...|- COMMAND" >&2 && exit 2; }
hosts=$1
shift

each=${PROCESSES:-1}
options=(--map-by "ppr:$each:node")
[[ $hosts == - ]] || options+=(--host "${hosts//,/:$each,}:$each")
# By default, Open MPI binds each process to one core, on which all of JAX's threads and the data's would run.
options+=(--bind-to none)

export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-.92} # of a GPU's memory; JAX takes .75
export NCCL_DEBUG=${NCCL_DEBUG:-WARN}
# The other hosts get these alone of this shell's variables; -x with one that is not set is an error in Open MPI 5.
for name in PATH LD_LIBRARY_PATH PYTHONPATH VIRTUAL_ENV HF_HOME XLA_FLAGS "${!XLA_PYTHON@}" "${!NCCL_@}" "${!JAX_@}"; do
    [[ -z ${!name:-} ]] || options+=(-x "$name")
done

exec mpirun "${options[@]}" "$@"
