# shellcheck shell=bash
# shellcheck disable=SC2030,SC2031 # busybox_image is a subshell, so that its variables stay its own
# Makes an image out of nothing but this machine's static busybox. To be sourced.

# busybox_image FILE: writes an OCI image layout with `busybox:latest` in it as one tar file. No registry is
# asked and the same busybox always gives the same bytes.
busybox_image() (
    set -eu
    umask 022 # what is in the image must be readable for whoever runs in it
    file=$1
    build=$(mktemp -d "$file.XXXXXX")
    trap 'rm -rf "$build"' EXIT
    root=$build/root blobs=$build/layout/blobs/sha256
    mkdir -p "$root"/{bin,dev,etc,proc,sys} "$blobs"
    mkdir -m 1777 "$root/tmp"

    cp "$(command -v busybox)" "$root/bin/busybox"
    for applet in $("$root/bin/busybox" --list); do
        [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
    done
    plain_tar "$build/layer" "$root"
    layer=$(add_blob "$build/layer")

    jq -nc --arg layer "sha256:$layer" --arg arch "$(oci_architecture)" '{
        architecture: $arch, os: "linux",
        config: {Env: ["PATH=/bin"], Cmd: ["sh"]},
        rootfs: {type: "layers", diff_ids: [$layer]}}' >"$build/config"
    config=$(add_blob "$build/config")

    jq -nc --argjson config "$(descriptor config.v1+json "$config")" \
        --argjson layer "$(descriptor layer.v1.tar "$layer")" '{
        schemaVersion: 2, mediaType: "application/vnd.oci.image.manifest.v1+json",
        config: $config, layers: [$layer]}' >"$build/manifest"
    manifest=$(add_blob "$build/manifest")

    jq -nc --argjson manifest "$(descriptor manifest.v1+json "$manifest")" '{
        schemaVersion: 2, mediaType: "application/vnd.oci.image.index.v1+json",
        manifests: [$manifest + {annotations: {
            "org.opencontainers.image.ref.name": "latest",
            "io.containerd.image.name": "docker.io/library/busybox:latest"}}]}' >"$build/layout/index.json"
    printf '{"imageLayoutVersion":"1.0.0"}' >"$build/layout/oci-layout"
    plain_tar "$build/image" "$build/layout"
    mv "$build/image" "$file"
)

# plain_tar FILE DIRECTORY: without anything that differs from one run to the next.
plain_tar() {
    tar --create --file "$1" --directory "$2" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner \
        --format=gnu .
}

# add_blob FILE: moves it to its place among the blobs and prints its digest.
add_blob() {
    local digest
    digest=$(sha256sum "$1" | cut -d' ' -f1)
    mv "$1" "$blobs/$digest"
    printf %s "$digest"
}

# descriptor TYPE DIGEST
descriptor() {
    jq -nc --arg type "application/vnd.oci.image.$1" --arg digest "sha256:$2" \
        --argjson size "$(stat -c %s "$blobs/$2")" '{mediaType: $type, digest: $digest, size: $size}'
}

oci_architecture() {
    case "$(uname -m)" in
    x86_64) printf amd64 ;;
    aarch64) printf arm64 ;;
    *) uname -m ;;
    esac
}
