#!/usr/bin/env bash
# Starts a single-node Kubernetes in namespaces of its own, with the images of FOLDER/images in it, and waits until it is
# ready. Run it as root.
#   up.sh FOLDER           (made if it is missing; FOLDER/kubectl and FOLDER/helm then talk to the cluster,
#                           and FOLDER/weft, if WEFT_CLI names one that is there)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
folder=$(cd "$1" && pwd)
[ "$(id -u)" -eq 0 ] || { echo "a cluster is made of namespaces, which needs root: run it as root" >&2; exit 1; }
if [ -e "$folder/ready" ] && kill -0 "$(cat "$folder/node.pid")" 2>/dev/null; then
  echo "the cluster is up already" >&2
  exit 0
fi
"$here/down.sh" "$folder"
"$here/../setup/install.sh" runc=runc ip=iproute2 iptables=iptables conntrack=conntrack unshare=util-linux nsenter=util-linux \
  openssl=openssl sysctl=procps gcc=gcc
[ -x /usr/lib/cni/bridge ] || "$here/../setup/install.sh" +containernetworking-plugins
programs=$("$here/build.sh")
ln -sfn "$programs" "$folder/programs"
began=$SECONDS

mkdir -p "$folder/images" "$folder/bin"
if [ ! -e "$folder/images/pause.tar" ]; then
  gcc -Os -static -s -o "$folder/bin/pause" "$here/pause.c"
  "${WEFT_E2E:?names the weft-e2e program}" image --name weft.test/pause:1 --file "$folder/bin/pause=/pause" --entrypoint /pause \
    --output "$folder/images/pause.tar"
fi

# A cgroup of its own per cluster, which down.sh can take away. (A cpuset without CPUs takes no process.)
cgroup=weft-$(echo "$folder" | sha256sum | cut -c1-8)
echo "$cgroup" >"$folder/cgroup"
for controller in /sys/fs/cgroup/*/; do
  [ -e "$controller/cgroup.procs" ] || continue
  mkdir -p "$controller/$cgroup"
  for file in cpuset.cpus cpuset.mems; do
    [ ! -e "$controller/$file" ] || cat "$controller/$file" >"$controller/$cgroup/$file"
  done
done

WEFT_CGROUP=$cgroup setsid unshare --fork --pid --mount-proc --mount --ipc --uts --net --kill-child=SIGKILL -- \
  "$here/node.sh" "$programs" "$folder" </dev/null >"$folder/node.out" 2>&1 &
node=$!
echo $node >"$folder/node.pid"
until [ -e "$folder/ready" ]; do
  kill -0 $node 2>/dev/null || { echo "the node ended:" >&2; cat "$folder/node.out" >&2; exit 1; }
  sleep 0.1
done

# Programs that run beside the node, in its network and mounts: the person's way in.
programs_for_people=("$programs"/{kubectl,helm,ctr})
[ ! -x "${WEFT_CLI:-}" ] || programs_for_people+=("$WEFT_CLI")
for program in "${programs_for_people[@]}"; do
  cat >"$folder/${program##*/}" <<SCRIPT
#!/bin/sh
exec nsenter --target \$(cat $folder/node.pid) --net --uts --ipc --wdns="\$PWD" -- env KUBECONFIG=$folder/pki/admin.kubeconfig WEFT_HELM=$programs/helm $program "\$@"
SCRIPT
  chmod +x "$folder/${program##*/}"
done
echo "the cluster is ready after $((SECONDS - began)) s" >&2
