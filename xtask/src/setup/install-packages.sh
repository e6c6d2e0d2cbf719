# Installs Debian packages without starting the services that come with some of them. Run as root: sh install-packages.sh PACKAGE...
set -eu
export DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l

policy=/usr/sbin/policy-rc.d
mark='written by cargo xtask setup: no service starts while packages are installed'
saved="$policy.before-weir"

restore() {
    if [ -f "$policy" ] && grep -qF "$mark" "$policy"; then rm -f "$policy"; fi
    # Also one that a killed run left.
    if [ -e "$saved" ]; then mv -f "$saved" "$policy"; fi
}
trap restore EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

if [ -e "$policy" ] && ! grep -qF "$mark" "$policy"; then
    mv "$policy" "$saved"
fi
printf '#!/bin/sh\n# %s\nexit 101\n' "$mark" >"$policy"
chmod 755 "$policy"

patiently() {
    for pause in 5 15 30 0; do
        "$@" && return 0
        [ "$pause" = 0 ] || { echo "apt-get failed; trying again in $pause s" >&2; sleep "$pause"; }
    done
    return 1
}

new=
for package in "$@"; do
    dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || new="$new $package"
done

patiently apt-get update -q
patiently apt-get install -q --yes --no-install-recommends -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@"

# With systemd, a service that was not started now would start at the next boot.
if [ -d /run/systemd/system ]; then
    for package in $new; do
        dpkg -L "$package" | sed -n 's|.*/systemd/system/\([^/@]*\.service\)$|\1|p' | while read -r unit; do
            systemctl disable --quiet "$unit" || true
        done
    done
fi
