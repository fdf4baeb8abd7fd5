# shellcheck shell=bash
# Finds the programs that the scripts need and installs what is missing from Debian's packages.
# To be sourced. It installs nothing when nothing is missing, and it starts no service.

# The system's own places, also where a login shell has left some of them out.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
if ! command -v cargo >/dev/null && [ -r "${CARGO_HOME:-$HOME/.cargo}/env" ]; then
    # shellcheck source=/dev/null
    . "${CARGO_HOME:-$HOME/.cargo}/env"
fi

say() { printf '%s\n' "$*"; }

fail() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# require_cargo: Rust is not taken from Debian, whose version is too old.
require_cargo() {
    command -v cargo >/dev/null ||
        fail "cargo is missing; install Rust (see https://rustup.rs), then run this again"
}

# A dynamically linked busybox cannot run in an image that holds nothing else.
has_static_busybox() {
    command -v busybox >/dev/null && ! ldd "$(command -v busybox)" >/dev/null 2>&1
}

# missing_packages COMMAND:PACKAGE...: prints the packages whose command is not there.
missing_packages() {
    local pair
    for pair in "$@"; do
        case "${pair%%:*}" in
        busybox) has_static_busybox || say "${pair#*:}" ;;
        *) command -v "${pair%%:*}" >/dev/null || say "${pair#*:}" ;;
        esac
    done
}

# install_packages PACKAGE...: a service that comes with a package is left stopped.
install_packages() (
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update </dev/null
    apt-get -qq -y -o Dpkg::Use-Pty=0 install --no-install-recommends "$@" </dev/null
)

# require COMMAND:PACKAGE...: sees to it that all the commands are there.
require() {
    local missing
    missing=$(missing_packages "$@" | sort -u | tr '\n' ' ')
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        fail "not installed: $missing(on Debian, as root: apt-get install $missing)"
    fi
    say "Installing from Debian: $missing"
    # shellcheck disable=SC2086 # one word per package is meant
    install_packages $missing >&2 || fail "apt-get could not install: $missing"
    missing=$(missing_packages "$@" | sort -u | tr '\n' ' ')
    [ -z "$missing" ] || fail "still not there after the installation: $missing"
}

# shellcheck disable=SC2034 # for those who source this
BUILD_NEEDS="protoc:protobuf-compiler cc:gcc ld:binutils"
# shellcheck disable=SC2034
RUN_NEEDS="containerd:containerd runc:runc busybox:busybox-static"
