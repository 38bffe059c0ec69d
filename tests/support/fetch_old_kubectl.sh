#!/usr/bin/env bash
# fetch_old_kubectl.sh: unpack Debian's kubectl (1.20, which speaks SPDY/3.1) into the cache, beside whatever kubectl the
# machine has. Once; prints nothing when it is there.
set -euo pipefail
cache=${XDG_CACHE_HOME:-$HOME/.cache}/edgeappliance
target=$cache/kubectl-1.20
[ -x "$target/kubectl" ] && exit 0
mkdir -p "$target"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
fetch() { apt-get download -qq -o APT::Sandbox::User=root kubernetes-client >/dev/null; }
fetch 2>/dev/null || { apt-get update -qq && fetch; } # a machine that has never asked for lists
dpkg-deb -x kubernetes-client_*.deb tree
install -m 755 tree/usr/bin/kubectl "$target/kubectl"
