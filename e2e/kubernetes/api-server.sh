#!/usr/bin/env bash
# An API server and its etcd alone, on loopback: for tests of what the control plane and an API server say to each other.
#   api-server.sh FOLDER up        (FOLDER/pki/admin.kubeconfig then talks to it)
#   api-server.sh FOLDER restart   (the API server; etcd stays)
#   api-server.sh FOLDER down
# WEFT_TEST_PORT, WEFT_TEST_ETCD_PORT (and the port after it): others than 26443 and 22379, beside another one.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
folder=$(cd "$1" && pwd)
port=${WEFT_TEST_PORT:-26443}
etcd_port=${WEFT_TEST_ETCD_PORT:-22379}
etcd=127.0.0.1:$etcd_port
peers=http://127.0.0.1:$((etcd_port + 1))
pki=$folder/pki

end() {
  local pid
  for pid in "$@"; do
    [ -e "$folder/$pid.pid" ] || continue
    pid=$(cat "$folder/$pid.pid")
    kill "$pid" 2>/dev/null || continue
    for _ in $(seq 100); do
      kill -0 "$pid" 2>/dev/null || break
      sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null || true
  done
}

serve() {
  # Webhooks are reached by endpoints, since no kube-proxy is here.
  setsid "$folder/programs/kube-apiserver" --etcd-servers="http://$etcd" --bind-address=127.0.0.1 --secure-port=$port \
    --service-cluster-ip-range=10.96.0.0/16 --client-ca-file="$pki/ca.crt" --tls-cert-file="$pki/apiserver.crt" \
    --tls-private-key-file="$pki/apiserver.key" --service-account-issuer=https://kubernetes.default.svc.cluster.local \
    --service-account-key-file="$pki/service-account.pub" --service-account-signing-key-file="$pki/service-account.key" \
    --authorization-mode=Node,RBAC --endpoint-reconciler-type=none --enable-aggregator-routing=true \
    >>"$folder/api-server.log" 2>&1 </dev/null &
  echo $! >"$folder/api-server.pid"
  for _ in $(seq 120); do
    if [ "$(kubectl get --raw /readyz 2>/dev/null)" = ok ]; then return; fi
    sleep 0.5
  done
  tail -n20 "$folder/api-server.log" >&2
  echo "the API server is not ready after a minute" >&2
  exit 1
}

kubectl() {
  "$folder/programs/kubectl" --kubeconfig "$pki/admin.kubeconfig" "$@"
}

case $2 in
up)
  programs=$("$here/build.sh")
  end api-server etcd
  rm -rf "$folder"
  mkdir -p "$pki"
  ln -sfn "$programs" "$folder/programs"
  "$here/certificates.sh" "$pki" 127.0.0.1
  sed -i "s/127.0.0.1:6443/127.0.0.1:$port/" "$pki"/*.kubeconfig
  setsid "$programs/etcd" --data-dir="$folder/etcd" --unsafe-no-fsync --log-level=warn --listen-client-urls="http://$etcd" \
    --advertise-client-urls="http://$etcd" --listen-peer-urls=$peers --initial-advertise-peer-urls=$peers \
    --initial-cluster=default=$peers >"$folder/etcd.log" 2>&1 </dev/null &
  echo $! >"$folder/etcd.pid"
  serve
  for kind in grpcroutes httproutes; do
    kubectl apply --server-side -f "$programs/crds/gateway.networking.k8s.io_$kind.yaml" >/dev/null
  done
  # And our own, from the chart.
  kubectl apply --server-side -f "$here/../../charts/weft/kinds" >/dev/null
  ;;
restart)
  end api-server
  serve
  ;;
down)
  end api-server etcd
  rm -rf "$folder"
  ;;
*)
  echo "up, restart or down, not \`$2\`" >&2
  exit 2
  ;;
esac
