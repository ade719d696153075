#!/usr/bin/env bash
# Ends the cluster of FOLDER and leaves no trace of it but logs: processes, mounts and links go with their namespaces.
#   down.sh FOLDER
set -euo pipefail
folder=$1
if [ -e "$folder/node.pid" ]; then
  # The parent of the namespaces' first process, which it takes with it.
  pid=$(cat "$folder/node.pid")
  if grep -qs unshare "/proc/$pid/comm"; then
    kill -KILL "$pid"
    for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.05; done
  fi
fi
if [ -e "$folder/cgroup" ]; then
  cgroup=$(cat "$folder/cgroup")
  for _ in $(seq 50); do
    left=$(find /sys/fs/cgroup/*/"$cgroup" -depth -type d 2>/dev/null) || true
    [ -n "$left" ] || break
    echo "$left" | xargs -r rmdir 2>/dev/null || true
    sleep 0.1
  done
fi
rm -rf "$folder"/{var,pki,hold,ready,node.pid,cgroup,kubectl,helm,ctr,weft} "$folder"/*.pid
