#!/usr/bin/env bash
# Runs two commands in turn, A B A B …, and prints the median of each and of the ratio A / B, pair by pair:
# a machine that drifts between minutes drifts for both.
# Usage: versus.sh RUNS 'COMMAND A' 'COMMAND B'      (needs GNU time as /usr/bin/time, and python3)
set -euo pipefail
runs=$1 a=$2 b=$3
log=$(mktemp -d); trap 'rm -rf "$log"' EXIT
once() { # NAME COMMAND: one whole process, wall seconds and peak KiB of the largest process
  /usr/bin/time -a -o "$log/$1" -f '%e %U %S %M' bash -c "exec $2" >/dev/null 2>"$log/$1.err" ||
    { cat "$log/$1.err" >&2; exit 1; }
}
once warm "$a"; once warm "$b"
for _ in $(seq "$runs"); do once a "$a"; once b "$b"; done
python3 - "$log" "$a" "$b" <<'PY'
import statistics as st, sys
log, a, b = sys.argv[1:]
rows = {k: [list(map(float, l.split())) for l in open(f'{log}/{k}')] for k in 'ab'}
for k, cmd in (('a', a), ('b', b)):
    w = [r[0] for r in rows[k]]
    print(f'{k.upper()}  wall {st.median(w):.2f} s ({min(w):.2f} to {max(w):.2f})  '
          f'cpu {st.median(r[1] + r[2] for r in rows[k]):.2f} s  '
          f'peak {st.median(r[3] for r in rows[k]) / 1024:.0f} MB  {cmd}')
r = [x[0] / y[0] for x, y in zip(rows['a'], rows['b'])]
print(f'A / B  {st.median(r):.2f} ({min(r):.2f} to {max(r):.2f}) over {len(r)} pairs')
PY
