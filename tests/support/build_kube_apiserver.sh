#!/bin/bash
# Builds a real kube-apiserver 1.20.2 from Debian's source package and caches it outside the repository.
#
# Usage: build_kube_apiserver.sh            build unless the cache holds it, print its path on the last line
#        build_kube_apiserver.sh --check    only say (exit status) whether the cache holds it
#
# Debian 12 ships no kube-apiserver binary, but the source package "kubernetes" holds the whole tree.
# apt is used with a deb-src list, state and cache of its own, derived from the machine's own apt sources, so
# /etc/apt is never touched and no host is named here. Takes about six minutes of CPU the first time.
set -euo pipefail

VERSION=1.20.2
CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/edgeappliance/kube-apiserver-$VERSION"
BINARY="$CACHE/kube-apiserver"
WORK="$CACHE/build"
PATCH=go119-2 # names what is changed in the source; a cached binary without it is built again
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg
PACKAGES=(golang-1.19-go dpkg-dev etcd-server rsync xz-utils)

say() { printf '%s kube-apiserver: %s\n' "$(date +%H:%M:%S)" "$*" >&2; }

works() { [ -x "$BINARY" ] && [ -e "$CACHE/patched-$PATCH" ] && "$BINARY" --version >/dev/null 2>&1; }

missing_packages() {
    local package
    for package in "${PACKAGES[@]}"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || echo "$package"
    done
}

install_packages() {
    local missing
    missing=$(missing_packages)
    [ -z "$missing" ] && return
    # shellcheck disable=SC2086  # a list of package names
    if [ "$(id -u)" -eq 0 ]; then
        say "installing" $missing
        apt-get update -q >&2
        # etcd-server would start itself where services are started; policy-rc.d of the machine decides that.
        DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing >&2
    else
        say "packages are missing; run this as root, then start again:"
        say "    apt-get install -y --no-install-recommends" $missing
        exit 1
    fi
}

private_apt() {
    apt-get -q -o Dir::Etc::SourceList="$WORK/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::State::lists="$WORK/lists" -o Dir::Cache="$WORK/cache" -o APT::Sandbox::User=root \
        -o Debug::NoLocking=true "$@" >&2
}

# The machine's own Debian archives as deb-src lines.
debian_sources() {
    local signed=""
    [ -e "$KEYRING" ] && signed="[signed-by=$KEYRING] "
    apt-get indextargets --format "deb-src $signed\$(REPO_URI) \$(RELEASE) \$(COMPONENT)" \
        'Created-By: Packages' 'Origin: Debian' | sort -u
}

fetch_source() {
    mkdir -p "$WORK/lists/partial" "$WORK/cache/archives/partial" "$WORK/go/src/k8s.io"
    [ -e "$WORK/go/src/k8s.io/kubernetes/.complete" ] && return
    debian_sources >"$WORK/sources.list"
    if [ ! -s "$WORK/sources.list" ] && [ "$(id -u)" -eq 0 ]; then
        apt-get update -q >&2
        debian_sources >"$WORK/sources.list"
    fi
    if [ ! -s "$WORK/sources.list" ]; then
        say "apt knows no Debian archive here; run this as root, then start again:"
        say "    apt-get update"
        exit 1
    fi
    say "fetching the source package"
    private_apt update
    (cd "$WORK" && rm -rf kubernetes-*/ && private_apt source kubernetes)
    rm -rf "$WORK/go/src/k8s.io/kubernetes"
    mv "$WORK"/kubernetes-*/ "$WORK/go/src/k8s.io/kubernetes"
    touch "$WORK/go/src/k8s.io/kubernetes/.complete"
}

# The directories that ask for generated OpenAPI definitions, as import paths (upstream's Makefile does the same).
openapi_packages() {
    {
        grep -rl --include='*.go' '+k8s:openapi-gen=' pkg cmd plugin
        (cd staging/src && grep -rl --include='*.go' '+k8s:openapi-gen=' k8s.io | sed 's#^#vendor/#')
    } | grep -v -e '_test\.go$' -e '^vendor/k8s.io/code-generator/' -e '^vendor/k8s.io/sample-apiserver/' \
        -e 'zz_generated' | xargs -n1 dirname | LC_ALL=C sort -u | sed 's#^#k8s.io/kubernetes/#' | paste -sd,
}

# Two vendored libraries rely on what the runtime of Go 1.15 did, and Go 1.19 does not:
# reflect2 1.0.1 gives the runtime too little memory for a map iterator, so that the server dies at random when it
# sorts a map (reflect2 1.0.2 hands the iterator in; the same change here); and the validation of custom
# resources takes an empty string for null, because the two now share one zero value.
patch_source() {
    local reflect2=vendor/github.com/modern-go/reflect2 validate=vendor/k8s.io/kube-openapi/pkg/validation/validate/type.go
    [ -e .patched ] && return
    sed -i -e 's/^func mapiterinit(\(.*\)) \*hiter$/func mapiterinit(\1, it *hiter)/' \
        -e 's|^\t// rest fields are ignored$|\trest [6]unsafe.Pointer\n\ttail [4]uintptr|' "$reflect2/unsafe_link.go"
    sed -i -e '/^func (type2 \*UnsafeMapType) UnsafeIterate/a\	it := new(hiter)\n\tmapiterinit(type2.rtype, *(*unsafe.Pointer)(obj), it)' \
        -e 's/^\t\thiter: .*mapiterinit(.*/\t\thiter:      it,/' "$reflect2/unsafe_map.go"
    sed -i 's/if data == nil || reflect.DeepEqual(reflect.Zero(reflect.TypeOf(data)), reflect.ValueOf(data)) {/if data == nil {/' \
        "$validate"
    grep -q 'Pointer, it \*hiter' "$reflect2/unsafe_link.go" && grep -q 'hiter:      it,' "$reflect2/unsafe_map.go" &&
        grep -q 'if data == nil {' "$validate" && touch .patched
}

compile() {
    export GOPATH="$WORK/go" GOCACHE="$WORK/gocache" GO111MODULE=off CGO_ENABLED=0 GOFLAGS= GOTOOLCHAIN=local
    export PATH="/usr/lib/go-1.19/bin:$PATH"
    cd "$GOPATH/src/k8s.io/kubernetes"
    patch_source || { say "the source is not what this script knows how to patch"; exit 1; }
    if [ ! -e pkg/generated/openapi/zz_generated.openapi.go ]; then
        say "generating the OpenAPI definitions (1 of 2)"
        nice go build -o "$WORK/openapi-gen" k8s.io/kubernetes/vendor/k8s.io/kube-openapi/cmd/openapi-gen
        nice "$WORK/openapi-gen" --logtostderr --v 0 -i "$(openapi_packages)" \
            -p k8s.io/kubernetes/pkg/generated/openapi -O zz_generated.openapi \
            -h vendor/k8s.io/code-generator/hack/boilerplate.go.txt -r "$WORK/violations.report" >&2
    fi
    say "compiling kube-apiserver (2 of 2), about five minutes"
    local version_package flags
    flags="-s -w"
    for version_package in client-go/pkg/version component-base/version; do
        flags+=" -X k8s.io/kubernetes/vendor/k8s.io/$version_package.gitVersion=v$VERSION"
        flags+=" -X k8s.io/kubernetes/vendor/k8s.io/$version_package.gitMajor=1"
        flags+=" -X k8s.io/kubernetes/vendor/k8s.io/$version_package.gitMinor=20"
    done
    nice go build -ldflags "$flags" -o "$WORK/kube-apiserver" k8s.io/kubernetes/cmd/kube-apiserver &
    local compiler=$! seconds=0
    trap "kill $compiler 2>/dev/null" EXIT # an interrupted build leaves no compiler behind
    while kill -0 "$compiler" 2>/dev/null; do
        sleep 1
        seconds=$((seconds + 1))
        [ $((seconds % 30)) -eq 0 ] && say "still compiling, $seconds s"
    done
    trap - EXIT
    wait "$compiler"
}

if [ "${1:-}" = "--check" ]; then
    works
    exit
fi
mkdir -p "$CACHE"
exec 9>"$CACHE/lock"
flock 9 # two test runs that start together build it once
if ! works; then
    install_packages
    fetch_source
    compile
    mv "$WORK/kube-apiserver" "$BINARY"
    touch "$CACHE/patched-$PATCH"
    works || { say "the built binary does not run"; exit 1; }
    rm -rf "$WORK"
    say "done: $("$BINARY" --version)"
elif [ -n "$(missing_packages | grep etcd-server || true)" ]; then
    install_packages # a cached binary on a fresh machine still needs etcd
fi
echo "$BINARY"
