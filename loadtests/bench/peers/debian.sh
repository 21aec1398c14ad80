#!/bin/sh
# nginx, HAProxy, wrk, and the libpython that Triton's python backend links, from Debian; no service is started.
set -eu
PATH="$PATH:/usr/sbin:/sbin"
wanted=""
for tool in nginx haproxy wrk; do
    command -v "$tool" >/dev/null || wanted="$wanted $tool"
done
ls /usr/lib/*/libpython3.11.so.1.0 >/dev/null 2>&1 || wanted="$wanted libpython3.11"
[ -n "$wanted" ] || exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "not installed, needs root on Debian:$wanted" >&2
    exit 0
fi
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy"
fi
apt-get update -qq
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $wanted
