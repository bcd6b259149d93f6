#!/bin/bash
# `make images`: both images for real, on a Debian 12, as root, without Docker and without a registry; then the demo in
# each, and tests/cluster/test_in_the_image.py with real Slurm and real Apptainer. 20 to 40 minutes, 25 GB under build/images.
#   apt-get install buildah debootstrap slurm-wlm munge iproute2 libpmix2
# $BUILDAH_OPTIONS: further options of `buildah build`, for example --volume of pip's configuration or certificates.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$PWD/build/images
commit=$(git rev-parse --short=12 HEAD)
export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot
buildah=(buildah --root "$work/store" --runroot "$work/run")
mkdir -p "$work/sif"
chmod a+rx "$work" "$work/sif"

if ! [[ -e $work/base/etc/debian_version ]]; then # the base: Debian 12, as debian:12-slim is
    debootstrap --variant=minbase --include=ca-certificates bookworm "$work/base" http://deb.debian.org/debian
    rm -rf "$work"/base/dev/*
fi
base=$("${buildah[@]}" from scratch)
"${buildah[@]}" add --quiet "$base" "$work/base" /
"${buildah[@]}" commit --quiet --rm "$base" localhost/farm-base

# shellcheck disable=SC2086  # several options
"${buildah[@]}" build --format docker -f docker/Dockerfile --build-arg BASE=localhost/farm-base \
    --build-arg FARM_COMMIT="$commit" ${BUILDAH_OPTIONS-} -t localhost/farm .
container=$("${buildah[@]}" from localhost/farm)
"${buildah[@]}" run "$container" -- farm doctor
"${buildah[@]}" run "$container" -- farm run problem=4 profile=smoke
"${buildah[@]}" rm "$container"

rm -f "$work/farm.oci"
"${buildah[@]}" push localhost/farm "oci-archive:$work/farm.oci"
chmod a+r "$work/farm.oci"

export FARM_APPTAINER_ROOT=$work/trixie FARM_TEST_SIF=$work/sif/farm.sif
apptainer=apptainer
if ! command -v apptainer > /dev/null; then
    docker/apptainer.sh --setup
    apptainer=$PWD/docker/apptainer.sh
fi
chown 1000:1000 "$work/sif"
rm -f "$FARM_TEST_SIF"
FARM_APPTAINER_USER=1000 APPTAINER_TMPDIR=$work/sif APPTAINER_CACHEDIR=$work/sif/cache HOME=$work/sif "$apptainer" build \
    --fakeroot --build-arg BOOTSTRAP=oci-archive --build-arg FROM="$work/farm.oci" --build-arg FARM_COMMIT="$commit" \
    "$FARM_TEST_SIF" singularity.def # runs %test: a trial of problem 4
sha256sum "$FARM_TEST_SIF" | tee "$FARM_TEST_SIF.sha256"
.venv/bin/python -m pytest -q tests/cluster/test_in_the_image.py
