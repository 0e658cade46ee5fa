#!/usr/bin/env bash
# Everything that waits for a GPU, in eight minutes at most; results are files.
#
#   benchmarks/gpu.sh [FOLDER]              the folder is runs/gpu if none is named
#   benchmarks/gpu.sh --dry-run [FOLDER]    the same path on a CPU, with as little of everything as
#                                           works; no figure of it means anything
#
# Needs PyTorch with CUDA, and pip install -c constraints.txt -e '.[bench]'. Every part has a limit
# of its own, and one that fails or runs out of time does not keep the others from running:
# summary.txt in the folder says what became of each, and NAME.txt what it printed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

device=cuda
forward=(--batch 16)
training=(--recipe fm7 nano --clips 24)
compiled=(--recipe fm7 nano --clips 6 --compile)
files=200
compile=(--compile)
times=1
if [[ ${1-} == --dry-run ]]; then
	shift
	device=cpu
	forward=(--config tiny --seconds 2 --runs 1)
	training=(--recipe tiny --runs 1)
	compiled=(--recipe tiny --runs 1)
	files=2
	compile=()
	times=20
fi
if (($# > 1)) || [[ ${1-} == -* ]]; then
	echo "usage: benchmarks/gpu.sh [--dry-run] [FOLDER]" >&2
	exit 2
fi
out=${1:-runs/gpu}
mkdir -p "$out"
: >"$out/summary.txt"

python=python
[[ -x .venv/bin/python ]] && python=.venv/bin/python
song=examples/demo_song.ogg
failed=0

# part NAME SECONDS COMMAND ...
part() {
	local name=$1 limit=$(($2 * times)) begin=$SECONDS status=0 outcome
	shift 2
	timeout --kill-after=5 "$limit" "$@" >"$out/$name.txt" 2>&1 || status=$?
	case $status in
	0) outcome=done ;;
	124 | 137) outcome="out of time" ;;
	*) outcome="failed, see $name.txt" ;;
	esac
	((status == 0)) || failed=1
	printf '%-18s %4d s of %3d   %s\n' "$name" $((SECONDS - begin)) "$limit" "$outcome" |
		tee -a "$out/summary.txt"
}

# 470 seconds in all, and twenty times as many in a dry run.
part tests 150 "$python" -m pytest tests/test_cuda.py -rA -p no:cacheprovider
part forward 80 "$python" benchmarks/forward.py --device "$device" "${forward[@]}"
part training 60 "$python" benchmarks/training.py --device "$device" "${training[@]}"
part training_compiled 70 "$python" benchmarks/training.py --device "$device" "${compiled[@]}"
part precision 50 "$python" benchmarks/precision.py --device "$device"
part embed 60 "$python" benchmarks/busy.py "$song" --files "$files" --device "$device" "${compile[@]}"
exit "$failed"
