#!/usr/bin/env bash
# The certificates and kubeconfigs of one test cluster, made anew for each: one authority, good for two days.
#   certificates.sh FOLDER NODE_ADDRESS
set -euo pipefail
folder=$1 address=$2
mkdir -p "$folder"
cd "$folder"

key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1.key" 2>/dev/null; }

key ca
openssl req -x509 -new -key ca.key -out ca.crt -days 2 -subj /CN=test-cluster-ca 2>/dev/null
# Service-account tokens are signed by a key of their own.
openssl genrsa -out service-account.key 2048 2>/dev/null
openssl rsa -in service-account.key -pubout -out service-account.pub 2>/dev/null

# certificate NAME SUBJECT [ALTERNATIVE NAMES]
certificate() {
  key "$1"
  openssl req -new -key "$1.key" -subj "$2" -out "$1.csr" 2>/dev/null
  {
    echo "extendedKeyUsage=clientAuth,serverAuth"
    [ -z "${3:-}" ] || echo "subjectAltName=$3"
  } >"$1.ext"
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile "$1.ext" -out "$1.crt" 2>/dev/null
  rm "$1.csr" "$1.ext"
}

names=DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,DNS:localhost
certificate apiserver /CN=kube-apiserver "$names,IP:10.96.0.1,IP:127.0.0.1,IP:$address"
certificate kubelet-client /O=system:masters/CN=kube-apiserver-kubelet-client
certificate aggregator /CN=aggregator
certificate admin /O=system:masters/CN=admin
certificate controller-manager /CN=system:kube-controller-manager
certificate scheduler /CN=system:kube-scheduler
certificate proxy /CN=system:kube-proxy
certificate coredns /CN=system:coredns
certificate kubelet /O=system:nodes/CN=system:node:node "DNS:node,IP:$address"

for user in admin controller-manager scheduler proxy coredns kubelet; do
  cat >"$user.kubeconfig" <<CONFIG
apiVersion: v1
kind: Config
current-context: weft
clusters:
- name: weft
  cluster: {server: "https://$address:6443", certificate-authority-data: $(base64 -w0 ca.crt)}
users:
- name: $user
  user: {client-certificate-data: $(base64 -w0 $user.crt), client-key-data: $(base64 -w0 $user.key)}
contexts:
- name: weft
  context: {cluster: weft, user: $user}
CONFIG
done
