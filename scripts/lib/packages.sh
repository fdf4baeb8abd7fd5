# shellcheck shell=bash
# Finds the programs that the scripts need and installs what is missing from Debian's packages.
# To be sourced. It installs nothing when nothing is missing, and it starts no service.

# The system's own places and cargo's, also where a login shell has left some of them out.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin"

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

# require_component SUBCOMMAND COMPONENT: some toolchains come without it.
require_component() {
    cargo "$1" --version >/dev/null 2>&1 && return 0
    command -v rustup >/dev/null || fail "cargo $1 is missing, and there is no rustup to add it"
    rustup component add "$2" || fail "rustup could not add $2"
}

# A dynamically linked busybox cannot run in an image that holds nothing else.
has_static_busybox() {
    command -v busybox >/dev/null && ! ldd "$(command -v busybox)" >/dev/null 2>&1
}

# missing_packages COMMAND:PACKAGE...: prints the packages whose command is not there. `crt1.o` stands for what
# a C compiler needs to link a program; gcc alone does not bring it along. `venv` is a part of Python that Debian
# keeps in a package of its own.
missing_packages() {
    local pair
    for pair in "$@"; do
        case "${pair%%:*}" in
        busybox) has_static_busybox || say "${pair#*:}" ;;
        venv) python3 -c 'import ensurepip, venv' 2>/dev/null || say "${pair#*:}" ;;
        crt1.o) [ -e "$(cc -print-file-name=crt1.o 2>/dev/null)" ] || say "${pair#*:}" ;;
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
BUILD_NEEDS="protoc:protobuf-compiler cc:gcc ld:binutils crt1.o:libc6-dev"
# shellcheck disable=SC2034
RUN_NEEDS="containerd:containerd runc:runc busybox:busybox-static"
# shellcheck disable=SC2034
TEST_NEEDS="python3:python3 venv:python3-venv rsync:rsync bash:bash perl:perl nft:nftables ip:iproute2 curl:curl jq:jq openssl:openssl docker-registry:docker-registry"
