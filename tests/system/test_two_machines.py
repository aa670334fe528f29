"""The README's second page, typed into two machines as it stands there.

A machine is a set of namespaces with a root shell as its init: what the shell writes to the file
system lands in memory, and all of it ends with the shell. Nothing of the lab is used, so what the
page says is all there is. The tests are one story, in their order.
"""

import os
import re
import select
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEADING = "## Two machines in six commands\n"
NAMES = ("left", "right")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
STEP_S = 120.0
BACKGROUND_S = 20.0

# Mounts of others are let go first, that nothing of theirs is held; then every directory that an
# installation writes to is covered: /mnt/DIRECTORY/upper holds just what this machine changed.
BOOT = """
umount --lazy --all --types nsfs,bpf
mount -t tmpfs tmpfs /mnt
for d in etc opt usr/local var; do
  mkdir -p /mnt/$d/upper /mnt/$d/work
  mount -t overlay overlay -o lowerdir=/$d,upperdir=/mnt/$d/upper,workdir=/mnt/$d/work /$d
done
mount -t tmpfs tmpfs /run
mount -t sysfs sysfs /sys
mount -t bpf bpf /sys/fs/bpf
ip link set lo up
"""
# What others have on the machine: links, a tc filter where ours will be, an Open vSwitch, files.
# The tap of its userspace datapath makes way: every such instance wants one of that name.
FOREIGN = """
ip link add br-lan type bridge
ip link add vp7 type veth peer name vp7x
tc qdisc add dev eth0 clsact
tc filter add dev eth0 ingress pref 7 protocol ip u32 match ip protocol 132 0xff flowid 1:1
mkdir -p /run/openvswitch /opt/cni/bin
ovsdb-tool create /run/openvswitch/conf.db /usr/share/openvswitch/vswitch.ovsschema
ovsdb-server /run/openvswitch/conf.db --remote=punix:/run/openvswitch/db.sock --pidfile --detach \\
  -vconsole:off -vsyslog:off
ovs-vsctl --no-wait init
ovs-vswitchd --pidfile --detach -vconsole:off -vsyslog:off
ovs-vsctl add-br br-int -- set bridge br-int datapath_type=netdev
ip link set ovs-netdev name their-netdev
echo theirs >/opt/cni/bin/other-cni
echo theirs >/usr/local/bin/other
"""
# A line for each thing there is. libuuid keeps a clock for whoever makes a UUID of the time.
LOOK = """
for d in $(ls /sys/class/net); do
  echo "link $d"
  tc filter show dev $d ingress; tc filter show dev $d egress
done
ovs-vsctl list-br
find /mnt /run /sys/fs/bpf \\( ! -type d -o -name '*overweave*' \\) \\
  ! -path '/mnt/*/wor?/*' ! -path '*/libuuid/*'
ss -Hlntu
ps -eo args= | grep -v '^ps '
"""
# What the reader of the page wrote and made himself.
READERS = {
    "/mnt/etc/upper/overweave",
    "/mnt/etc/upper/overweave/agent.yaml",
    "/mnt/var/upper/log/overweave.log",
    "/run/netns/pod",
}


@dataclass(frozen=True, slots=True)
class Step:
    """Lines of the page, the machines they are typed on, and what the page shows for them."""

    machines: tuple[str, ...]
    lines: str
    shown: str

    def missing(self, seen: str) -> str:
        """Return the first part shown (``...`` stands between two) that was not seen in order."""
        rest = masked(seen)
        for part in re.split(r"^\.\.\.\n", self.shown, flags=re.MULTILINE):
            _, found, rest = ("\n" + rest).partition("\n" + masked(part))
            if not found:
                return part
        return ""


def masked(text: str) -> str:
    """Return ``text`` without what differs from run to run: times, process numbers."""
    return re.sub(r"[\d./]+ ?ms\b|(?<=process )\d+", "N", text)


def read_page() -> list[Step]:
    page = (ROOT / "README.md").read_text(encoding="utf-8").partition(HEADING)[2]
    blocks = r"^```sh\n# (.*?)\n(.*?)^```\n\n^```text\n(.*?)^```\n"
    return [
        Step(tuple(name for name in re.findall(r"\w+", where) if name in NAMES), lines, shown)
        for where, lines, shown in re.findall(
            blocks, page.partition("\n## ")[0], re.MULTILINE | re.DOTALL
        )
    ]


STEPS = read_page()


class Machine:
    """A machine, and what has been seen on its terminal."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.seen = ""
        self._typed = 0
        spaces = ["--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        self.shell = subprocess.Popen(
            ["setpriv", "--pdeathsig=KILL", "unshare", *spaces, "bash"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env={"PATH": PATH, "LC_ALL": "C.UTF-8"},
        )
        # As errexit tells, but the shell goes on: it is the machine's init.
        self.type("trap 'echo \"==failed $? $BASH_COMMAND\"' ERR")
        self.type(f"{BOOT}hostname {name}")

    def type(self, lines: str) -> str:
        """Type ``lines`` and return what is seen until the shell is back and all went well."""
        assert self.shell.stdin is not None
        start = len(self.seen)
        self._typed += 1
        back = f"==back {self._typed}\n"
        self.shell.stdin.write(f"{lines}\necho '{back[:-1]}'\n".encode())
        self.shell.stdin.flush()
        returned = self.wait(lambda: back in self.seen[start:])
        seen = self.seen[start:].replace(back, "")
        assert returned, f"{self.name}: {lines}\n{seen}{self.log()}"
        assert "==failed" not in seen, f"{self.name}: {lines}\n{seen}{self.log()}"
        return seen

    def wait(self, condition: Callable[[], bool], timeout_s: float = STEP_S) -> bool:
        """Look at the terminal until ``condition`` holds; False if it does not in time."""
        assert self.shell.stdout is not None
        deadline = time.monotonic() + timeout_s
        while not condition():
            left = deadline - time.monotonic()
            if left < 0 or not select.select([self.shell.stdout], [], [], left)[0]:
                return False
            more = os.read(self.shell.stdout.fileno(), 1 << 16)
            if not more:
                return False
            self.seen += more.decode()
        return True

    def log(self) -> str:
        """Return what the agent logged."""
        path = Path(f"/proc/{self.shell.pid}/root/var/log/overweave.log")
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def look(self) -> set[str]:
        """Return a line for everything there is, but for directories nobody named after us."""
        return set(self.type(LOOK).splitlines())

    def end(self) -> None:
        """End the shell, and with it everything on the machine."""
        assert self.shell.stdin is not None
        assert self.shell.stdout is not None
        self.shell.kill()
        self.wait(lambda: False, BACKGROUND_S)  # until nobody is left to print anything
        self.shell.wait()
        self.shell.stdin.close()
        self.shell.stdout.close()


@dataclass
class Story:
    """The machines, what was on them before, and what each step printed on which machine."""

    machines: dict[str, Machine]
    before: dict[str, set[str]]
    told: list[dict[str, str]] = field(default_factory=list)

    def tell(self, number: int) -> dict[str, str]:
        """Type a step where the page says, once those before it went well."""
        assert len(self.told) == number, "a step before this one failed"
        step = STEPS[number]
        starts = {name: len(self.machines[name].seen) for name in step.machines}
        for name in step.machines:
            self.machines[name].type(step.lines)

        def seen() -> dict[str, str]:
            return {name: self.machines[name].seen[start:] for name, start in starts.items()}

        # What runs in the background prints when it is ready.
        last = self.machines[step.machines[-1]]
        last.wait(lambda: not step.missing("".join(seen().values())), BACKGROUND_S)
        told = seen()
        missing = step.missing("".join(told.values()))
        assert not missing, f"the README shows\n{missing}\nseen was\n{''.join(told.values())}"
        self.told.append(told)
        return told


@pytest.fixture(scope="module")
def story() -> Iterator[Story]:
    machines: dict[str, Machine] = {}
    try:
        for name in NAMES:
            machines[name] = Machine(name)
        left, right = (str(machine.shell.pid) for machine in machines.values())
        veth = ["netns", left, "type", "veth", "peer", "name", "eth0", "netns", right]
        subprocess.run(["ip", "link", "add", "eth0", *veth], check=True)
        for number, machine in enumerate(machines.values(), start=1):
            machine.type(f"ip addr add 192.0.2.{number}/24 dev eth0; ip link set eth0 up")
            machine.type(FOREIGN)
        yield Story(machines, {name: machine.look() for name, machine in machines.items()})
    finally:
        for machine in machines.values():
            machine.end()


def test_the_page_is_six_commands_and_the_way_back() -> None:
    assert [" ".join(step.lines.split()[:2]) for step in STEPS] == [
        "make install",
        "overweave fabric",
        "overweave apply",
        "mkdir -p",
        "ip netns",
        "ip netns",
        "overweave uninstall",
    ]
    assert all(step.machines and step.shown.strip() for step in STEPS)


@pytest.mark.parametrize(
    "number",
    [pytest.param(n, id=step.lines.partition("\n")[0]) for n, step in enumerate(STEPS[:-1])],
)
def test_a_step_prints_what_the_page_shows(story: Story, number: int) -> None:
    story.tell(number)


def test_the_ping_went_to_the_other_machine_and_back(story: Story) -> None:
    target = STEPS[5].lines.split()[-1]
    assert "3 packets transmitted, 3 received, 0% packet loss" in story.told[5]["left"]
    addresses = {name: m.type("ip -n pod -br addr") for name, m in story.machines.items()}
    assert [name for name in NAMES if f" {target}/" in addresses[name]] == ["right"]


def test_the_fabric_database_stays_while_another_node_is_in_it(story: Story) -> None:
    listed = story.machines["left"].type("overweave uninstall --dry-run")
    assert "- Open vSwitch of /var/lib/overweave/ovs\n" in listed
    assert "kept: fabric database of /var/lib/overweave/fabric, for it has other nodes (right)" in (
        listed
    )
    assert "- fabric database" not in listed
    assert "- directory /var/lib/overweave\n" not in listed


def test_uninstall_leaves_what_was_there_before_and_nothing_else(story: Story) -> None:
    during = {name: machine.look() for name, machine in story.machines.items()}
    told = story.tell(6)
    for name, machine in story.machines.items():
        assert during[name] - story.before[name] > {
            "link vp0",
            "link ow-int",
            "/mnt/opt/upper/cni/bin/overweave-cni",
            "/mnt/usr/local/upper/bin/overweave",
        }
        things = re.findall(r"^- .*", told[name], re.MULTILINE)
        listed, removed = things[: len(things) // 2], things[len(things) // 2 :]
        assert listed == removed
        assert machine.look() == story.before[name] | READERS
