# Linux' own initiator, in the lab's virtual machine, on a target in this process.
def test_what_linux_writes_is_there(lab, target):
    where = f"-T {target.iqn} -p 10.0.2.2:{target.port}"  # this machine's 127.0.0.1, as the guest sees it
    lab.run("modprobe -a iscsi_tcp sd_mod; pidof iscsid || (iscsid -f >/dev/null 2>&1 &)")
    lab.run("for i in $(seq 100); do pidof iscsid && exit; usleep 50000; done; false")
    lab.run(f"iscsiadm -m node -o new {where} && iscsiadm -m node {where} --login")
    try:
        disk = "/sys/class/iscsi_session/session*/device/target*/*/block/*"
        lab.run(f"for i in $(seq 200); do set -- {disk}; [ -e $1 ] && exit; usleep 50000; done; false")
        lab.run(f"echo hello | dd of=/dev/$(basename {disk}) bs=512 conv=sync oflag=direct seek=8")
    finally:
        lab.run("iscsiadm -m node --logoutall=all; iscsiadm -m node -o delete")
    assert target.initiator().read(8, 1).startswith(b"hello\n")
