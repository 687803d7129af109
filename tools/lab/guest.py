"""What the guest is made of: Debian's packages, the kernel's modules, and the few files of our own."""

from __future__ import annotations

from pathlib import Path

#: Debian's packages; what they depend on comes along.
PACKAGES = (
    "python3",
    "python3-rtslib-fb",
    "python3-click",
    "python3-tabulate",
    "python3-wcwidth",
    "targetcli-fb",
    "tcmu-runner",
    "open-iscsi",
    "multipath-tools",
    "iproute2",
    "kmod",
    "sg3-utils",
    "e2fsprogs",
    "fio",
    "dash",
    "coreutils",
    "mount",
    "util-linux",
    "procps",
    "busybox-static",
)

#: The kernel. The cloud kernel would boot faster, and has no FCoE, no tcm_fc and no scsi_dh_alua.
KERNEL = "linux-image-amd64"

#: What dependencies drag in and a guest without dpkg and users has no use for.
UNWANTED = (
    "perl",
    "libperl5*",
    "perl-modules*",
    "perl-base",
    "dpkg",
    "debconf",
    "adduser",
    "passwd",
    "udev",
    "tar",
    "gcc-*-base",
    "libgdbm*",
    "libdb5*",
    "systemd",
    "media-types",
    "libfile-find-rule-perl",
    "libnumber-compare-perl",
    "libtext-glob-perl",
    "libsemanage*",
    "libsepol*",
    "libpam-modules*",
    "libpam-runtime",
    "libpython3*-dev",
    "python3-numpy",
    "python3-pandas*",
)

#: What unpacking leaves out.
LEFT_OUT = (
    "./usr/share/doc",
    "./usr/share/man",
    "./usr/share/locale",
    "./usr/share/info",
    "./usr/share/lintian",
    "./usr/share/bug",
    "./usr/share/bash-completion",
    "./usr/share/zoneinfo",
    "./usr/share/perl5",
    "./usr/share/i18n",
    "*/python3.*/test",
    "*/python3.*/idlelib",
    "*/python3.*/lib2to3",
    "*/python3.*/ensurepip",
    "*/python3.*/pydoc_data",
    "./usr/lib/*/gconv",
    "./usr/lib/*/perl*",
)

#: Modules, with all that they depend on; one that a kernel has built in or does not have is left out.
MODULES = (
    *("virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "configfs", "ext4", "loop", "scsi_debug"),
    *("target_core_mod", "target_core_file", "target_core_iblock", "target_core_pscsi", "target_core_user"),
    *(
        "iscsi_target_mod",
        "tcm_loop",
        "tcm_fc",
        "iscsi_tcp",
        "libiscsi",
        "scsi_transport_iscsi",
        "sd_mod",
        "sg",
    ),
    *("scsi_dh_alua", "dm_multipath", "dm_round_robin", "dm_service_time", "null_blk"),
    *("crc32c_intel", "crc32c_generic", "crct10dif_generic", "crct10dif_pclmul", "md5", "sha1_generic"),
    *("sha256_generic", "sha3_generic", "sch_netem", "veth", "fcoe", "libfcoe", "libfc", "scsi_transport_fc"),
)

#: Modules of the initramfs: as many as it takes to mount the root.
EARLY_MODULES = ("virtio_pci", "virtio_blk", "crc32c_generic", "crc32c_intel", "ext4")

#: First sign of life on the serial console.
UP = "SANCREDIT-LAB-UP"

INITRAMFS_INIT = """#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /new
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev
for m in $(cat /order); do insmod /m/$m 2>/dev/null; done
n=0; while [ ! -b /dev/vda ] && [ $n -lt 200 ]; do sleep 0.05; n=$((n+1)); done
mount -t ext4 -o rw,noatime /dev/vda /new || { echo no root file system; poweroff -f; }
mount --move /dev /new/dev; umount /sys /proc
exec switch_root /new /sbin/lab-init
"""

#: The whole of a boot that only asks whether this accelerator works.
PROBE_INIT = f"""#!/bin/busybox sh
echo {UP}
/bin/busybox poweroff -f
"""

_INIT = f"""#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1
mount -t proc proc /proc; mount -t sysfs sysfs /sys
mkdir -p /dev/pts /dev/shm
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts; mount -t tmpfs shm /dev/shm
mount -t tmpfs run /run; mount -t tmpfs tmp /tmp
mkdir -p /run/lock/iscsi /run/multipathd
echo lab >/proc/sys/kernel/hostname
modprobe virtio_console; modprobe virtio_net; modprobe configfs
python3 -S -E /usr/lib/lab-agent.py &
mount -t configfs configfs /sys/kernel/config
ip link set lo up
n=0; for d in /sys/class/net/e*; do d=${{d##*/}}
  ip link set $d up
  [ $n -eq 0 ] && ip addr add 10.0.2.15/24 dev $d      # and no route further, on purpose
  n=$((n+1)); done
echo {UP} $(cut -d' ' -f1 /proc/uptime)
while :; do wait; sleep 1; done
"""

#: A target that is not there is given up sooner than open-iscsi does, which tries for 2 minutes. One that is slow is
#: not: next to other work, an emulated guest and its target may each stand still for seconds, and an answer that is
#: merely late must not look like a lost path.
_ISCSID = """iscsid.startup = /usr/sbin/iscsid
node.startup = manual
node.leading_login = No
node.session.timeo.replacement_timeout = 240
node.conn[0].timeo.login_timeout = 30
node.conn[0].timeo.logout_timeout = 15
node.conn[0].timeo.noop_out_interval = 10
node.conn[0].timeo.noop_out_timeout = 60
node.session.err_timeo.abort_timeout = 30
node.session.err_timeo.lu_reset_timeout = 30
node.session.err_timeo.tgt_reset_timeout = 30
node.session.initial_login_retry_max = 2
node.session.cmds_max = 128
node.session.queue_depth = 32
node.session.nr_sessions = 1
node.session.reopen_max = 0
node.session.iscsi.InitialR2T = No
node.session.iscsi.ImmediateData = Yes
node.session.iscsi.FirstBurstLength = 262144
node.session.iscsi.MaxBurstLength = 16776192
node.conn[0].iscsi.MaxRecvDataSegmentLength = 262144
discovery.sendtargets.iscsi.MaxRecvDataSegmentLength = 32768
node.session.scan = auto
"""

_MULTIPATH = """defaults {
    user_friendly_names yes
    find_multipaths no
    polling_interval 1
    max_polling_interval 2
    no_path_retry 30
    path_grouping_policy failover
    checker_timeout 5
    skip_kpartx yes
    features "0"
}
"""

INITIATOR_NAME = "iqn.2024-01.example.test:lab"


def files() -> dict[str, tuple[str, int]]:
    """Our own files in the guest: path → (text, mode)."""
    agent = Path(__file__).with_name("guest_agent.py").read_text()
    plain = {
        "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
        "etc/group": "root:x:0:\ndisk:x:6:\n",
        "etc/hosts": "127.0.0.1 localhost lab\n",
        "etc/hostname": "lab\n",
        "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\nservices: files\nprotocols: files\n",
        "etc/iscsi/initiatorname.iscsi": f"InitiatorName={INITIATOR_NAME}\n",
        "etc/iscsi/iscsid.conf": _ISCSID,
        "etc/multipath.conf": _MULTIPATH,
        "usr/lib/lab-agent.py": agent,
    }
    return {path: (text, 0o644) for path, text in plain.items()} | {"usr/sbin/lab-init": (_INIT, 0o755)}


#: Directories that packages expect and that nobody's maintainer script makes here. rtslib wants its dbroot to be there.
DIRECTORIES = (
    *("dev", "proc", "sys", "run", "tmp", "root", "var/lib", "var/log", "mnt", "opt"),
    *("etc/target/pr", "etc/target/alua", "etc/rtslib-fb-target/pr", "etc/rtslib-fb-target/alua"),
)

#: targetcli dies where there is no D-Bus: its first question goes into the try block that follows.
TARGETCLI_FILE = "usr/lib/python3/dist-packages/targetcli/ui_backstore.py"
TARGETCLI_BEFORE = "        bus = Gio.bus_get_sync(Gio.BusType.SYSTEM, None)\n        try:\n"
TARGETCLI_AFTER = "        try:\n            bus = Gio.bus_get_sync(Gio.BusType.SYSTEM, None)\n"
