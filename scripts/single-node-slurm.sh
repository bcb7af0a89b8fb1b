#!/bin/sh
# A real Slurm on this one machine, from Debian's packages, to try profiles/slurm. As root:
#
#   sh scripts/single-node-slurm.sh          install, configure, start, wait until it takes jobs
#   sh scripts/single-node-slurm.sh stop     stop what it started
#
# For a machine of your own or a container: it writes /etc/slurm/slurm.conf (and gres.conf, with every
# NVIDIA GPU that it finds), and refuses if another slurm.conf is there. No systemd is needed, no
# accounting database, no cgroups: jobs are not confined to their cores.
set -eu
CONF=/etc/slurm/slurm.conf
MARK="# written by single-node-slurm.sh"
RUN=/run/single-node-slurm

stop() {
    for name in slurmd slurmctld munged; do
        [ -f $RUN/$name.pid ] || continue
        pid=$(cat $RUN/$name.pid)
        kill "$pid" 2>/dev/null || true
        for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null && sleep 0.1 || break; done
        rm -f $RUN/$name.pid
    done
}

[ "$(id -u)" = 0 ] || { echo "error: run it as root" >&2; exit 1; }
if [ "${1:-}" = stop ]; then stop; exit; fi
if [ -f $CONF ] && ! grep -q "^$MARK" $CONF; then
    echo "error: $CONF is not this script's: this machine has a Slurm already" >&2
    exit 1
fi
if ! command -v slurmctld >/dev/null || ! command -v munged >/dev/null; then
    apt-get update
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends slurm-wlm munge
fi
stop
host=$(hostname -s)
cores=$(nproc)
memory=$(awk '/MemTotal/ { print int($2 / 1024 * 0.9) }' /proc/meminfo) # MB
gpus=$(ls /dev/nvidia[0-9]* 2>/dev/null | wc -l)
install -d -m 755 $RUN /etc/slurm /var/spool/slurmctld /var/spool/slurmd
grep -q "[[:space:]]$host\$" /etc/hosts || echo "127.0.0.1 $host" >> /etc/hosts

cat > $CONF <<END
$MARK
ClusterName=single
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
SlurmctldPidFile=$RUN/slurmctld.pid
SlurmdPidFile=$RUN/slurmd.pid
SlurmctldLogFile=/var/log/slurmctld.log
SlurmdLogFile=/var/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=$((memory / cores))
ReturnToService=2
MinJobAge=600
GresTypes=gpu
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cores RealMemory=$memory$([ "$gpus" -gt 0 ] && echo " Gres=gpu:$gpus") State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP
END
rm -f /etc/slurm/gres.conf
[ "$gpus" -eq 0 ] || echo "Name=gpu File=/dev/nvidia[0-$((gpus - 1))]" > /etc/slurm/gres.conf

if ! munge -n >/dev/null 2>&1; then # unless one runs already
    install -d -o munge -g munge -m 755 /run/munge
    chown munge:munge /run/munge
    setpriv --reuid=munge --regid=munge --clear-groups munged --pid-file=/run/munge/munged.pid
    cp /run/munge/munged.pid $RUN/munged.pid
fi
slurmctld
slurmd
for _ in $(seq 30); do
    if srun --immediate=5 --time=1 true 2>/dev/null; then
        sinfo --format="%P: %D node, %c cores, %m MB, GPUs %G"
        exit 0
    fi
    sleep 1
done
echo "error: no job runs; see /var/log/slurmctld.log and /var/log/slurmd.log" >&2
exit 1
