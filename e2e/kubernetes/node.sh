#!/usr/bin/env bash
# A whole Kubernetes node, in the namespaces up.sh has made for it: this is their first process, and with it everything ends.
#   node.sh PROGRAMS FOLDER
# FOLDER/var becomes /var, FOLDER/logs gets a log per program, FOLDER/ready appears when the API server answers.
#
# Nothing here can reach the outside: the node's only link is a pair with both ends inside, so that it has an address and a
# default route. No file of the machine is written: /run and /tmp are fresh, /var is FOLDER's, and the few settings in
# /proc/sys that are not the network namespace's own are covered by files.
set -euo pipefail
programs=$1 folder=$2
here=$(cd "$(dirname "$0")" && pwd)
address=10.100.0.2
pki=$folder/pki
export PATH=$programs:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

# kubelet and containerd pass mounts on to containers, for which they have to be shared; `-n`, or mount would keep notes
# in the machine's /run.
mount -n --make-rshared /
mkdir -p "$folder/var"/{lib/kubelet,lib/containerd,lib/etcd,lib/cni,log/pods,log/containers,tmp} "$folder/logs"
mount -n --bind "$folder/var" /var
mount -n -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/containerd /run/covers /run/lock

for setting in vm/overcommit_memory:1 vm/panic_on_oom:0 kernel/panic:10 kernel/panic_on_oops:1 \
  kernel/keys/root_maxkeys:1000000 kernel/keys/root_maxbytes:25000000; do
  cover=/run/covers/${setting%%:*}
  mkdir -p "$(dirname "$cover")"
  echo "${setting#*:}" >"$cover"
  mount -n --bind "$cover" "/proc/sys/${setting%%:*}"
done

hostname node
ip link set lo up
ip link add node0 type veth peer name node0-peer
ip addr add $address/24 dev node0
ip addr add 10.100.0.1/24 dev node0-peer
ip link set node0 up
ip link set node0-peer up
ip route add default via 10.100.0.1 dev node0
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.bridge.bridge-nf-call-iptables=1 net.bridge.bridge-nf-call-ip6tables=1
# The cluster's DNS answers at a fixed address; nothing else is asked.
printf 'nameserver %s\noptions ndots:1\n' $address >/run/resolv.conf

"$here/certificates.sh" "$pki" $address

# begin NAME COMMAND...: in the background; should it end, it is begun again, as a service manager would, but not while
# there is FOLDER/hold/NAME.
begin() {
  local name=$1
  shift
  while :; do
    while [ -e "$folder/hold/$name" ]; do sleep 0.05; done
    "$@" >>"$folder/logs/$name.log" 2>&1 &
    echo $! >"$folder/$name.pid"
    wait $! || true
    echo "$name ended; beginning it again" >>"$folder/logs/node.log"
    sleep 0.3
  done &
}

# until WHAT SECONDS COMMAND...
await() {
  local what=$1 left=$(($2 * 20))
  shift 2
  until "$@" >/dev/null 2>&1; do
    left=$((left - 1))
    [ $left -gt 0 ] || { echo "$what did not come up: see $folder/logs" >&2; exit 1; }
    sleep 0.05
  done
}

begin etcd etcd --data-dir=/var/lib/etcd --unsafe-no-fsync --log-level=warn --auto-compaction-mode=revision --auto-compaction-retention=0 \
  --listen-client-urls=http://127.0.0.1:12379 --advertise-client-urls=http://127.0.0.1:12379 \
  --listen-peer-urls=http://127.0.0.1:12380 --initial-advertise-peer-urls=http://127.0.0.1:12380 \
  --initial-cluster=default=http://127.0.0.1:12380

# --kubelet-preferred-address-types: or `logs` and `exec` would look the node's name up.
begin kube-apiserver kube-apiserver --etcd-servers=http://127.0.0.1:12379 --bind-address=0.0.0.0 --advertise-address=$address \
  --secure-port=6443 --service-cluster-ip-range=10.96.0.0/16 --client-ca-file="$pki/ca.crt" \
  --tls-cert-file="$pki/apiserver.crt" --tls-private-key-file="$pki/apiserver.key" \
  --service-account-issuer=https://kubernetes.default.svc.cluster.local \
  --service-account-key-file="$pki/service-account.pub" --service-account-signing-key-file="$pki/service-account.key" \
  --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged=true \
  --kubelet-client-certificate="$pki/kubelet-client.crt" --kubelet-client-key="$pki/kubelet-client.key" \
  --kubelet-certificate-authority="$pki/ca.crt" --kubelet-preferred-address-types=InternalIP \
  --requestheader-client-ca-file="$pki/ca.crt" --requestheader-allowed-names=aggregator \
  --requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group \
  --requestheader-extra-headers-prefix=X-Remote-Extra- \
  --proxy-client-cert-file="$pki/aggregator.crt" --proxy-client-key-file="$pki/aggregator.key"

mkdir -p /run/cni
cat >/run/cni/10-bridge.conflist <<'CONFIG'
{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}], "dataDir": "/run/cni/addresses"}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
CONFIG

# restrict_oom_score_adj: for machines that do not let root lower it.
cat >/run/containerd/config.toml <<'CONFIG'
version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.nri.v1.nri"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "weft.test/pause:1"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  disable_apparmor = true
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
  SystemdCgroup = false
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["/usr/lib/cni"]
  conf_dir = "/run/cni"
CONFIG
begin containerd containerd --config /run/containerd/config.toml --log-level warn

cat >/run/kubelet.yaml <<CONFIG
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $pki/kubelet.crt
tlsPrivateKeyFile: $pki/kubelet.key
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: /${WEFT_CGROUP#/}
cgroupsPerQOS: true
enforceNodeAllocatable: []
failCgroupV1: false
failSwapOn: false
clusterDNS: [$address]
clusterDomain: cluster.local
resolvConf: /run/resolv.conf
evictionHard: {memory.available: 50Mi, nodefs.available: 1%, imagefs.available: 1%}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
maxPods: 200
nodeStatusUpdateFrequency: 5s
syncFrequency: 10s
podLogsDir: /var/log/pods
CONFIG
cat >/run/proxy.yaml <<CONFIG
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clientConnection: {kubeconfig: $pki/proxy.kubeconfig}
clusterCIDR: 10.244.0.0/16
conntrack: {maxPerCore: 0, min: 0}
iptables: {minSyncPeriod: 0s}
CONFIG
# The cluster's names, and of all others at once that there is no such name.
cat >/run/Corefile <<CONFIG
cluster.local:53 in-addr.arpa:53 ip6.arpa:53 {
  bind $address
  errors
  kubernetes {
    kubeconfig $pki/coredns.kubeconfig weft
    pods insecure
    ttl 5
  }
}
.:53 {
  bind $address
  template ANY ANY {
    rcode NXDOMAIN
  }
}
CONFIG

export KUBECONFIG=$pki/admin.kubeconfig
await "the API server" 60 kubectl get --raw=/readyz
begin controller-manager kube-controller-manager --kubeconfig="$pki/controller-manager.kubeconfig" \
  --authentication-kubeconfig="$pki/controller-manager.kubeconfig" --authorization-kubeconfig="$pki/controller-manager.kubeconfig" \
  --use-service-account-credentials=true --root-ca-file="$pki/ca.crt" --service-account-private-key-file="$pki/service-account.key" \
  --cluster-signing-cert-file="$pki/ca.crt" --cluster-signing-key-file="$pki/ca.key" \
  --allocate-node-cidrs=true --cluster-cidr=10.244.0.0/16 --node-cidr-mask-size=24 --leader-elect=false
begin scheduler kube-scheduler --kubeconfig="$pki/scheduler.kubeconfig" --authentication-kubeconfig="$pki/scheduler.kubeconfig" \
  --authorization-kubeconfig="$pki/scheduler.kubeconfig" --leader-elect=false
await containerd 30 ctr --connect-timeout 1s version
for image in "$folder"/images/*.tar; do ctr -n k8s.io images import --local "$image" >>"$folder/logs/images.log" 2>&1; done
begin kubelet kubelet --config=/run/kubelet.yaml --kubeconfig="$pki/kubelet.kubeconfig" --node-ip=$address --hostname-override=node \
  --node-labels=topology.kubernetes.io/zone=zone-a
begin proxy kube-proxy --config=/run/proxy.yaml --hostname-override=node
kubectl apply -f - >/dev/null <<CONFIG
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: test-coredns}
rules:
- {apiGroups: [""], resources: [services, namespaces, pods], verbs: [list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: test-coredns}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: test-coredns}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: system:coredns}]
---
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec: {clusterIP: 10.96.0.10, ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kube-dns, namespace: kube-system, labels: {kubernetes.io/service-name: kube-dns}}
addressType: IPv4
ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
endpoints: [{addresses: [$address]}]
CONFIG
begin coredns coredns -conf /run/Corefile
await "the node" 60 kubectl wait --for=condition=Ready node/node --timeout=60s
await "the default service account" 30 kubectl get serviceaccount default
touch "$folder/ready"
# For ever: a signal to this process, or the end of the one that made the namespaces, ends them all.
wait
