#!/usr/bin/env bash
# What the demo and the end-to-end tests need.
set -euo pipefail
exec "$(dirname "$0")/install.sh" ip=iproute2 nft=nftables nginx=nginx redis-server=redis-server redis-cli=redis-tools \
  curl=curl dnsmasq=dnsmasq-base tcpdump=tcpdump unshare=util-linux nsenter=util-linux setpriv=util-linux
