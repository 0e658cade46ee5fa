#!/usr/bin/env bash
# From nothing to the paper's table: songs, a model that learns from them, heads on it, scores.
#
#   runs/reproduce.sh            nano on a fifth of rendered-v1: some hours on a laptop
#   runs/reproduce.sh --smoke    the same path with as little of everything as works: minutes, and
#                                no figure of it means anything
#
# OUT names another folder for the results. What was stopped goes on when the command is given again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

case "${1-}" in
"")
	out=${OUT:-runs/nano}
	songs=400
	recipe=(nano)
	part=0.2
	seeds=5
	rows=untrained:nano,mel,chroma,trivial,oracle
	;;
--smoke)
	out=${OUT:-runs/smoke}
	songs=2
	recipe=(tiny --set steps=4 --set validation_clips=2)
	part=0.005 # one song in each set
	seeds=1
	rows=trivial,oracle
	;;
*)
	echo "usage: runs/reproduce.sh [--smoke]" >&2
	exit 2
	;;
esac

# The environment, unless there is one that is active.
if ! command -v musicfm >/dev/null; then
	make setup
	export PATH="$PWD/.venv/bin:$PATH"
fi

# Music, composed and played on the spot, and what its mel spectrogram is normalised with.
musicfm render "$songs" --out "$out/songs"
[[ -e "$out/stats.json" ]] || musicfm stats "$out/songs" --out "$out/stats.json"

# A model, by masked token modelling.
musicfm pretrain "${recipe[@]}" "$out/songs" --stats "$out/stats.json" --out "$out/pretraining" --resume
model=$out/pretraining/model

# Heads on its frozen hidden states: first what each layer knows of chords, then all tasks beside the
# baselines. Both take hidden states from one cache.
data=(--data rendered-v1 --fraction "$part" --songs "$out/rendered-v1" --cache "$out/features")
musicfm probe chord --model "$model" --layer all --seeds "$seeds" "${data[@]}" --out "$out/layers"
musicfm table1 --models "$model,$rows" --seeds "$seeds" "${data[@]}" --out "$out/table"
