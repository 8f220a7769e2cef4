"""A SLURM of a few shell scripts: jobs are handed over with what they ask for, and end.

`install(folder)` writes the commands; put the returned folder first on the PATH. Every call is
written to folder/calls.log, each job's state to folder/jobs/ID.state, and a GPU asked for is given
as CUDA_VISIBLE_DEVICES, as a cluster does.
"""

from pathlib import Path

COMMON = """#!/bin/sh
home={home}
echo "$(basename "$0") $*" >> "$home/calls.log"
"""

SBATCH = """
wrap= ; output=/dev/null ; gpus=0 ; folder=.
while [ $# -gt 0 ]; do
  case "$1" in
    --wrap=*) wrap=${1#--wrap=} ;;
    --output) output=$2 ; shift ;;
    -D) folder=$2 ; shift ;;
    --gpus=*|--gres=gpu:*) gpus=${1##*[=:]} ;;
    --wrap) wrap=$2 ; shift ;;
  esac
  shift
done
id=1
while ! mkdir "$home/jobs/$id" 2>/dev/null; do id=$((id + 1)); done
output=$(echo "$output" | sed "s/%j/$id/")
mkdir -p "$(dirname "$output")"
echo RUNNING > "$home/jobs/$id.state"
cd "$folder" || exit 1
devices=
[ "$gpus" = 0 ] || devices=$((id % 2))
(
  SLURM_JOB_ID=$id CUDA_VISIBLE_DEVICES=$devices setsid sh -c "$wrap" > "$output" 2>&1 < /dev/null
  if [ $? = 0 ]; then echo COMPLETED; else echo FAILED; fi > "$home/jobs/$id.state"
) > /dev/null 2>&1 &
echo $id
"""

STATES = """
for state in "$home"/jobs/*.state; do
  [ -e "$state" ] && echo "$(basename "$state" .state)|$(cat "$state")"
done
"""

SRUN = """
while [ "${1#-}" != "$1" ]; do shift; done
exec "$@"
"""

COMMANDS = {
    "sbatch": SBATCH,
    "sacct": STATES,
    "squeue": STATES,
    "srun": SRUN,
    "scontrol": 'echo "MinJobAge = 300 sec"',
    "sinfo": "",
    "sacctmgr": "",
    "sshare": "",
    "scancel": "",
}


def install(folder: Path) -> Path:
    """Write the commands and return their folder."""
    (folder / "jobs").mkdir(parents=True)
    (folder / "bin").mkdir()
    for name, body in COMMANDS.items():
        path = folder / "bin" / name
        path.write_text(COMMON.format(home=folder) + body + "\n")
        path.chmod(0o755)
    return folder / "bin"
