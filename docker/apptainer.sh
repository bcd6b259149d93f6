#!/bin/bash
# apptainer.sh WORD…: `apptainer WORD…` on a Debian 12, which has no package of it: Debian sid's runs in a tree of
# Debian 13 under $FARM_APPTAINER_ROOT, in a mount namespace of its own. FARM_APPTAINER_USER=1000, as root, runs it as
# that ordinary user (building needs one). `apptainer.sh --setup`, as root, makes the tree.
set -euo pipefail
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
tree=${FARM_APPTAINER_ROOT:?where the tree of Debian 13 is, or shall be}
mirror=http://deb.debian.org/debian
package=pool/main/a/apptainer/apptainer_1.4.5-2_amd64.deb
digest=26cf96e08fccb0e50ea0f285a5a19f940ee873d167a0680584fe6eba7d197d65
needs=squashfs-tools,uidmap,squashfuse,fuse3,libseccomp2,libsqlite3-0,ca-certificates,fakeroot

setup() {
    debootstrap --variant=minbase --include="$needs" trixie "$tree" "$mirror"
    curl --silent --show-error --fail --output "$tree/apptainer.deb" "$mirror/$package"
    echo "$digest  $tree/apptainer.deb" | sha256sum --check --quiet
    dpkg -x "$tree/apptainer.deb" "$tree"
    echo 'builder:x:1000:1000::/tmp:/bin/bash' >> "$tree/etc/passwd"
    echo 'builder:x:1000:' >> "$tree/etc/group"
    echo 'builder:100000:65536' | tee "$tree/etc/subuid" > "$tree/etc/subgid"
    rm -rf "${tree:?}"/dev/*
    mkdir -p "$tree/.old"
    touch "$tree/etc/hosts" "$tree/etc/resolv.conf" "$tree/set-up"
}

if [[ ${1-} == --setup ]]; then
    [[ -e $tree/set-up ]] || setup
    exit
fi
if [[ $(id -u) == 0 ]]; then
    enter=(unshare --mount)
else # an ordinary user may mount within a user namespace of its own
    enter=(unshare --user --map-current-user --keep-caps --mount)
fi
exec "${enter[@]}" bash -euc '
    tree=$1 here=$PWD
    shift
    mount --make-rprivate /
    mount --rbind "$tree" "$tree"
    for directory in /*; do # everything but the system itself is seen at its own path
        case $directory in /bin | /boot | /etc | /lib* | /sbin | /usr | /var | /initrd* | /vmlinuz*) continue ;; esac
        [[ -d $directory && ! -L $directory ]] || continue
        [[ -d $tree$directory ]] || mkdir "$tree$directory" 2> /dev/null || continue # a new one, which root alone can add
        mount --rbind "$directory" "$tree$directory"
    done
    mount --rbind /var/tmp "$tree/var/tmp"
    for file in hosts resolv.conf; do mount --bind "/etc/$file" "$tree/etc/$file"; done
    cd "$tree"
    pivot_root . .old
    cd "$here"
    umount --lazy /.old
    if [[ -n ${FARM_APPTAINER_USER-} ]]; then
        exec setpriv --reuid "$FARM_APPTAINER_USER" --regid "$FARM_APPTAINER_USER" --clear-groups /usr/bin/apptainer "$@"
    fi
    exec setpriv --ambient-caps=-all --inh-caps=-all /usr/bin/apptainer "$@"' apptainer.sh "$tree" "$@"
