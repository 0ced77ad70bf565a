#!/bin/busybox sh
# The first process in the virtual machine: what a node has, then the tests, then the end. What it
# says on the second serial port is read by qemu.rs.
/bin/busybox --install -s /bin
export PATH=/bin HOME=/tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
exec >/dev/ttyS1 2>&1 </dev/null
# What is written arrives as it was, without carriage returns.
stty -opost </dev/ttyS1
now() { cut -d' ' -f1 /proc/uptime; }
for module in /modules/*; do
    [ ! -e "$module" ] || insmod "$module" || echo "@@ broken: $module does not load"
done
ip link set lo up || echo "@@ broken: no loopback"
case " $(cat /proc/cmdline)" in
    *" nohz_full="*)
        # Without effect, this is empty or `(null)`.
        grep -q '[0-9]' /sys/devices/system/cpu/nohz_full || echo "@@ broken: nohz_full= has no effect"
        ;;
esac
ulimit -n 65536
cd /tmp
echo "@@ up $(uname -r)"
run() {
    group=$1
    binary=$2
    shift 2
    echo "@@ begin $group"
    timeout -k 10 "$LIMIT" "/tests/$binary" "$@"
    echo "@@ end $group $?"
}
. /job
echo "@@ done"
poweroff -f
