#!/usr/bin/env bash
# build.sh DIR: builds a real Kubernetes control plane into DIR from Debian's source package, where it is not there yet.
# Debian packages no server. Needs root, apt, 3 GB of disk for the while and about five minutes of two cores.
set -euo pipefail
mkdir -p "$1"
out=$(readlink -f "$1")
programs=(kube-apiserver kube-controller-manager kube-scheduler kubemark)
missing=0
for program in "${programs[@]}"; do
  [ -x "$out/$program" ] || missing=1
done
command -v etcd >/dev/null || missing=1
[ "$missing" = 1 ] || exit 0

[ "$(id -u)" = 0 ] || { echo "building Kubernetes installs Debian packages: run as root" >&2; exit 1; }
work=$(mktemp -d)
sources=/etc/apt/sources.list.d/gpuwarden-kubernetes-source.sources
trap 'rm -rf "$work" "$sources"' EXIT
export DEBIAN_FRONTEND=noninteractive
apt-get install -y -qq --no-install-recommends golang-go rsync dpkg-dev make gcc libc6-dev etcd-server openssl curl >/dev/null
sed 's/^Types:.*/Types: deb-src/' /etc/apt/sources.list.d/debian.sources >"$sources"
apt-get update -qq
cd "$work"
apt-get source -qq kubernetes >/dev/null
rm "$sources"
cd kubernetes-*/
version=$(dpkg-parsechangelog -S Version)
version=${version#*really}
version=${version%%[-+]*}
export HOME="$work/home" GOPATH="$work/home" GOPROXY=off GO111MODULE=auto CGO_ENABLED=0
export KUBE_GIT_VERSION="v$version" KUBE_GIT_COMMIT=debian KUBE_GIT_TREE_STATE=archive
KUBE_GIT_MAJOR=$(cut -d. -f1 <<<"$version") KUBE_GIT_MINOR=$(cut -d. -f2 <<<"$version")
export KUBE_GIT_MAJOR KUBE_GIT_MINOR
echo "building Kubernetes $KUBE_GIT_VERSION (once, about five minutes)..."
make WHAT="${programs[*]/#/cmd/}" GOLDFLAGS="-s -w" >"$out/build.log" 2>&1 || { tail -20 "$out/build.log" >&2; exit 1; }
for program in "${programs[@]}"; do
  cp "_output/bin/$program" "$out/"
done
