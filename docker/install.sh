#!/bin/sh
# Installs Python and the farm into an image. docker/Dockerfile and singularity.def both run this and nothing else, so
# the two images cannot drift apart.
#   install.sh dependencies CUDA    Python, a compiler (Triton needs one) and requirements.lock, into /opt/venv
#   install.sh farm                 the farm of /opt/farm
# CUDA is cu130, what the lock names, or another build of the same torch: cu126 still has code for Volta (V100).
set -eu
lock=/opt/farm/requirements.lock
pip="/opt/venv/bin/python -m pip install --quiet --no-cache-dir --disable-pip-version-check"

dependencies() {
    cuda=$1
    wanted=$(cat "$lock" | { cat; echo "$cuda"; } | sha256sum)
    if [ "$(cat /opt/venv/.lock 2>/dev/null)" = "$wanted" ]; then
        return # the base is an image of the farm with this very lock
    fi
    apt-get update --quiet=2
    DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --yes --no-install-recommends \
        ca-certificates gcc git libc6-dev python3 python3-dev python3-venv
    rm -rf /var/lib/apt/lists/*
    python3 -m venv /opt/venv
    if [ "$cuda" = cu130 ]; then
        $pip --requirement "$lock"
    else # the same versions in another CUDA build, which brings its own CUDA libraries
        grep -vE '^(nvidia-|cuda-|triton==)' "$lock" | sed -E "s/^(torch|torchvision)==.*/&+$cuda/" > /tmp/lock
        $pip --requirement /tmp/lock --extra-index-url "https://download.pytorch.org/whl/$cuda"
        rm /tmp/lock
    fi
    echo "$wanted" > /opt/venv/.lock
}

farm() {
    $pip --no-deps --no-build-isolation --editable /opt/farm
    chmod -R a+rX /opt/farm /opt/venv
}

"$@"
