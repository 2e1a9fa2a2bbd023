#!/usr/bin/env bash
# Installs the Debian packages the tests of real components use, where that is allowed; says what is missing where not.
# With --missing it only lists them.
set -euo pipefail
declare -A packages=(
  [prometheus]=prometheus [promtool]=prometheus [prometheus-alertmanager]=prometheus-alertmanager [amtool]=prometheus-alertmanager
  [gcc]=gcc [openssl]=openssl [systemd-analyze]=systemd [unshare]=util-linux [dbus-daemon]=dbus-daemon [ip]=iproute2 [nsenter]=util-linux [ps]=procps
  [slurmctld]=slurm-wlm [slurmd]=slurm-wlm [scontrol]=slurm-wlm [squeue]=slurm-wlm [munged]=munge
)
missing=()
for command in "${!packages[@]}"; do
  command -v "$command" >/dev/null || missing+=("${packages[$command]}")
done
[ -e /usr/include/stdlib.h ] || missing+=(libc6-dev)
[ ${#missing[@]} -eq 0 ] && exit 0
mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
if [ "${1:-}" = --missing ]; then
  printf '%s\n' "${missing[@]}"
  exit 0
fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "installing for the tests: ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
else
  echo "tests of real components will be skipped; they need root and: ${missing[*]}" >&2
fi
