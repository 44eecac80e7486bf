"""The lab itself, asked through testinfra and through the command line: what stands is what the lab file says."""

from __future__ import annotations

import os
import pty
import subprocess
import termios
from typing import TYPE_CHECKING, Any

import pytest
from command_line import COMMAND_SECONDS, EGRESSLAB, ENVIRONMENT, egresslab, read_until

from harness import ready, shipped
from harness.drivers.netns.lab import NamespaceLab, stand_up
from harness.errors import InputError
from harness.hosts import lab_host
from harness.lab import load_lab
from harness.plan import make_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.live

CLUSTER_NODES = ("server-0", "agent-0", "agent-1")
POD = "bookinfo/reviews-v2"
BARE = "outsiders/bare"


@pytest.fixture(scope="module")
def bookinfo() -> Iterator[NamespaceLab]:
    """Stand up bookinfo-egress under a name of this process, for all tests of this module."""
    path = shipped.find_lab("bookinfo-egress")
    source = (str(path), path.read_text(encoding="utf-8"))
    lab = stand_up(make_plan(load_lab(path)), f"bookinfo-{os.getpid()}", source, owned=True)
    yield lab
    lab.close()


@pytest.fixture(scope="module")
def host(bookinfo: NamespaceLab) -> Callable[[str], Any]:
    """Give testinfra hosts of the lab's nodes."""
    return lambda node: lab_host(bookinfo, node)


@pytest.mark.parametrize(
    ("node", "addresses"),
    [
        ("server-0", {"eth0": {"172.19.0.2"}}),
        ("bigip", {"eth0": {"172.19.0.5"}, "eth1": {"10.4.0.2", "10.4.0.201", "10.4.0.202", "10.4.0.211"}}),
        ("firewall", {"eth0": {"10.4.0.3"}, "eth1": {"198.51.100.2"}}),
        ("tinyproxy", {"eth0": {"198.51.100.3"}}),
    ],
)
def test_interfaces_and_addresses(
    host: Callable[[str], Any], node: str, addresses: dict[str, set[str]]
) -> None:
    """A node has an interface up for each of its networks, with its addresses and those it answers for."""
    for name, expected in addresses.items():
        interface = host(node).interface(name)
        assert interface.exists
        assert set(interface.addresses) == expected
        assert "UP" in interface.link[0]["flags"]


def test_a_pod_has_one_interface_with_one_address(bookinfo: NamespaceLab, host: Callable[[str], Any]) -> None:
    """A pod has its own /32 on eth0, and a link-local next hop, as Calico gives it."""
    pod = host(POD)
    assert set(pod.interface.names()) == {"lo", "eth0"}
    assert pod.interface("eth0").addresses == [str(bookinfo.bindings.pods[POD])]
    assert pod.interface.default().name == "eth0"
    assert {"dst": "default", "gateway": "169.254.1.1"}.items() <= pod.interface("eth0").routes()[0].items()


@pytest.mark.parametrize("node", CLUSTER_NODES)
def test_bgp_routes(bookinfo: NamespaceLab, host: Callable[[str], Any], node: str) -> None:
    """A cluster node's kernel has from BIRD the /26 blocks of the others, and its own as a blackhole."""
    shown = host(node).check_output("ip -o route show proto bird").splitlines()
    routes = {" ".join(line.split()[:3]).removesuffix(" metric") for line in shown}
    blocks = bookinfo.bindings.blocks
    expected = {f"blackhole {block}" for block in blocks[node]} | {
        f"{block} via {bookinfo.bindings.addresses[other, 'nodes']}"
        for other in CLUSTER_NODES
        if other != node
        for block in blocks[other]
    }
    assert routes == expected


@pytest.mark.parametrize(
    ("node", "programs"),
    [
        ("server-0", {"bird"}),
        ("kube-system/kube-dns", {"dnsmasq"}),
        (POD, {"website.py", "envoy"}),
        ("bookinfo/traffic-generator", {"sleep", "envoy"}),
        (BARE, {"sleep"}),
        ("bigip", {"egress_proxy.py"}),
        ("firewall", set()),
        ("tinyproxy", {"tinyproxy"}),
        ("www.f5.com", {"website.py"}),
    ],
)
def test_processes(host: Callable[[str], Any], node: str, programs: set[str]) -> None:
    """A node runs its programs and nothing else."""
    asked = host(node)
    network = int(asked.check_output("readlink /proc/self/ns/net").removeprefix("net:[").removesuffix("]"))
    running = [line.split() for line in asked.check_output("ps -eo netns=,ppid=,args=").splitlines()]
    found = set()
    for namespace, parent, *argv in running:
        if namespace == str(network) and parent == "1" and argv[0] != "/bin/sh":
            scripts = [word for word in argv if word.endswith(".py")]
            found.add((scripts or argv)[0].rpartition("/")[2])
    assert found == programs


def test_a_sidecar_pod_has_one_envoy(host: Callable[[str], Any]) -> None:
    """Asked through testinfra, `process`, told the network namespace, finds the pod's own Envoy among the lab's."""
    asked = host(POD)
    network = int(asked.check_output("readlink /proc/self/ns/net").removeprefix("net:[").removesuffix("]"))
    assert len(asked.process.filter(netns=network, comm="envoy")) == 1
    assert len(asked.process.filter(comm="envoy")) > 1


@pytest.mark.parametrize(
    ("node", "sockets"),
    [
        ("server-0", {"0.0.0.0:179"}),
        (POD, {"0.0.0.0:9080", "0.0.0.0:15001", "0.0.0.0:15006"}),
        (BARE, set()),
        ("bigip", {"10.4.0.201:3128", "10.4.0.202:3128"}),
        ("firewall", set()),
        ("tinyproxy", {"0.0.0.0:8888"}),
        ("www.f5.com", {"0.0.0.0:80", "0.0.0.0:443"}),
    ],
)
def test_listening_sockets(host: Callable[[str], Any], node: str, sockets: set[str]) -> None:
    """A node listens where its lab file and its sidecar say, and nowhere else."""
    listening = host(node).socket.get_listening_sockets()
    found = {socket.removeprefix("tcp://") for socket in listening if socket.startswith("tcp://")}
    assert {socket for socket in found if not socket.startswith(":::")} == sockets


def test_one_socket_by_name(host: Callable[[str], Any]) -> None:
    """Asked through testinfra, `socket` answers for one node at a time."""
    assert host("tinyproxy").socket("tcp://8888").is_listening
    assert not host("firewall").socket("tcp://8888").is_listening


@pytest.mark.parametrize(
    ("node", "key"),
    [(POD, "certs/key.pem"), ("outsiders/impostor", "certs/key.pem"), ("bigip", "bookinfo-proxy.pem")],
)
def test_keys_are_private(bookinfo: NamespaceLab, host: Callable[[str], Any], node: str, key: str) -> None:
    """A private key can be read by its owner only."""
    file = host(node).file(f"{bookinfo.bindings.folder(node)}/{key}")
    assert file.exists
    assert file.mode == 0o600
    assert file.content_string.startswith("-----BEGIN")


def test_a_pod_sees_its_own_files_only(bookinfo: NamespaceLab, host: Callable[[str], Any]) -> None:
    """Another pod's certificates are not there, and the lab's private folder shows the pod's own."""
    other = bookinfo.bindings.folder("bookinfo/reviews-v1")
    assert not host(POD).file(f"{other}/certs/key.pem").exists
    assert host("bookinfo/reviews-v1").file(f"{other}/certs/key.pem").exists
    nodes = host(POD).check_output("find %s/nodes -mindepth 2 -maxdepth 2", bookinfo.bindings.directory)
    assert nodes.split() == [bookinfo.bindings.folder(POD)]


def test_a_pod_has_its_own_names(bookinfo: NamespaceLab, host: Callable[[str], Any]) -> None:
    """A pod has its own host name, /etc/hosts, and a resolv.conf as Kubernetes writes it."""
    pod = host(POD)
    assert pod.check_output("hostname") == "reviews-v2"
    assert f"{bookinfo.bindings.pods[POD]} reviews-v2" in pod.file("/etc/hosts").content_string
    written = pod.file("/etc/resolv.conf").content_string.splitlines()
    assert written == [
        "nameserver 10.235.0.10",
        "search bookinfo.svc.cluster.local svc.cluster.local cluster.local",
        "options ndots:5",
    ]


def test_workloads_have_no_capabilities(bookinfo: NamespaceLab) -> None:
    """A command in a pod has no capability and can gain none; it cannot change the pod's network."""
    status = bookinfo.run(POD, ["cat", "/proc/self/status"], seconds=5).stdout.splitlines()
    told = dict(line.split(":\t", 1) for line in status if ":\t" in line)
    assert {int(told[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}
    assert told["NoNewPrivs"] == "1"
    changed = bookinfo.run(POD, ["ip", "link", "set", "eth0", "down"], seconds=5)
    assert changed.code
    assert "not permitted" in changed.stderr


def test_the_root_is_read_only(host: Callable[[str], Any]) -> None:
    """Nothing of the host's files can be written, not even with the sandbox's capabilities."""
    pod = host(POD)
    assert "ro" in pod.mount_point("/").options
    touched = pod.run("touch /usr/egresslab-was-here")
    assert touched.failed
    assert "Read-only file system" in touched.stderr
    assert pod.run("touch /tmp/scratch && rm /tmp/scratch").succeeded


def test_sysctls_of_the_host_are_read_only(host: Callable[[str], Any]) -> None:
    """Of the kernel's settings only those of the node's own network can be written."""
    node = host("firewall")
    assert "ro" in node.mount_point("/proc/sys").options
    assert "rw" in node.mount_point("/proc/sys/net").options
    assert node.run("echo 0 > /proc/sys/vm/overcommit_memory").failed
    assert node.run("echo 1 > /proc/sys/net/ipv4/ip_forward").succeeded
    assert node.sysctl("net.ipv4.ip_forward") == 1
    assert host(POD).sysctl("net.ipv4.ip_forward") == 0


def test_a_pod_without_sidecar_reaches_a_service(bookinfo: NamespaceLab, host: Callable[[str], Any]) -> None:
    """Services are translated by the nodes, not by the sidecars."""
    address = bookinfo.bindings.cluster_ips["bookinfo/productpage"]
    answer = host(BARE).check_output("curl -sS http://%s:9080/", str(address))
    assert "This is productpage" in answer


@pytest.mark.parametrize(
    ("pod", "name"),
    [
        (POD, "productpage"),
        (POD, "productpage.bookinfo"),
        (BARE, "productpage.bookinfo"),
        (BARE, "productpage.bookinfo.svc.cluster.local"),
    ],
)
def test_service_names_resolve(
    bookinfo: NamespaceLab, host: Callable[[str], Any], pod: str, name: str
) -> None:
    """A pod resolves services as in Kubernetes: short in its own namespace, with a namespace elsewhere."""
    address = bookinfo.bindings.cluster_ips["bookinfo/productpage"]
    assert host(pod).addr(name).ipv4_addresses == [str(address)]


def test_other_names(host: Callable[[str], Any]) -> None:
    """Names outside the cluster resolve; those that nobody declared, and short ones elsewhere, do not."""
    assert host(BARE).addr("www.f5.com").ipv4_addresses == ["198.51.100.4"]
    assert not host(BARE).addr("productpage").is_resolvable
    assert not host(BARE).addr("www.example.org").is_resolvable


def test_masquerade(bookinfo: NamespaceLab, host: Callable[[str], Any]) -> None:
    """What a pod sends out of every pool leaves as its node; what it sends to another pod does not."""
    node = str(bookinfo.plan.node(BARE).host)

    def masqueraded() -> int:
        return bookinfo.counters()[node]["masqueraded"][0]

    before = masqueraded()
    assert host(BARE).run("curl -sS -o /dev/null http://productpage.bookinfo:9080/").succeeded
    assert masqueraded() == before
    mark = bookinfo.mark()
    assert host(BARE).run("curl -sS -m 2 http://10.4.0.201:3128/").failed
    assert masqueraded() == before + 1
    address = str(bookinfo.bindings.addresses[node, "nodes"])

    def seen() -> bool:
        lines = bookinfo.collect(mark, ("lines",)).lines
        return any(address in line for name in lines if name.startswith("bigip ") for _, line in lines[name])

    ready.until("the proxy's log names the node", seen, seconds=5)


def test_an_unknown_node_lists_the_known(bookinfo: NamespaceLab) -> None:
    """A host of a node that is not there is refused, with the nearest name."""
    with pytest.raises(InputError, match="did you mean 'firewall'"):
        lab_host(bookinfo, "firewal")


def test_exit_status_of_a_signal(host: Callable[[str], Any]) -> None:
    """A command that a signal ended has 128 and its number, as a shell says it; streams are kept apart."""
    told = host("firewall").run("echo out; echo err >&2; kill -9 $$")
    assert (told.rc, told.stdout, told.stderr) == (137, "out\n", "err\n")


def test_get(bookinfo: NamespaceLab) -> None:
    """`get pods` from another process shows each pod with its state, address and node."""
    shown = egresslab("get", "pods", "--lab", bookinfo.name, "-n", "bookinfo")
    assert shown.returncode == 0, shown.stderr
    heading, *rows = (line.split() for line in shown.stdout.splitlines())
    assert heading == ["NAMESPACE", "NAME", "READY", "STATUS", "IP", "NODE"]
    pod = next(row for row in rows if row[1] == "reviews-v2")
    assert pod == ["bookinfo", "reviews-v2", "2/2", "Running", str(bookinfo.bindings.pods[POD]), "agent-0"]


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137), ("kill -TERM $$", 143)]
)
def test_exec_exit_codes(bookinfo: NamespaceLab, script: str, code: int) -> None:
    """`exec` ends as its command did, 128 and the number for a signal."""
    ended = egresslab("exec", "--lab", bookinfo.name, "firewall", "--", "sh", "-c", script)
    assert ended.returncode == code, ended.stderr


def test_exec_of_a_missing_program(bookinfo: NamespaceLab) -> None:
    """A command that is not there gives 127 and a sentence."""
    ended = egresslab("exec", "--lab", bookinfo.name, "-n", "bookinfo", "reviews-v2", "--", "no-such")
    assert ended.returncode == 127
    assert "no-such" in ended.stderr


def test_exec_passes_streams(bookinfo: NamespaceLab) -> None:
    """`exec -i` gives the command our standard input; without -i it has none."""
    place = ("--lab", bookinfo.name, "-n", "bookinfo", "reviews-v2")
    assert egresslab("exec", "-i", *place, "--", "cat", given="héllo\n").stdout == "héllo\n"
    assert egresslab("exec", *place, "--", "cat", given="hello\n").stdout == ""


def test_exec_gives_a_terminal(bookinfo: NamespaceLab) -> None:
    """`exec -it` gives the command a terminal of our size, in cooked mode, on which it can be typed to."""
    script = "tty; stty size; read word; echo got:$word; exit 5"
    argv = [*EGRESSLAB, "exec", "-it", "--lab", bookinfo.name, "firewall", "--"]
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (33, 99))
    with subprocess.Popen(
        [*argv, "sh", "-c", script],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=ENVIRONMENT,
        start_new_session=True,
    ) as process:
        os.close(slave)
        try:
            shown = read_until(master, "33 99")
            assert "/dev/pts/" in shown
            os.write(master, b"typed\n")
            assert "got:typed" in read_until(master, "got:")
            assert process.wait(COMMAND_SECONDS) == 5
        finally:
            os.close(master)
            process.kill()


def test_what_exec_started_ends_with_it(bookinfo: NamespaceLab, host: Callable[[str], Any]) -> None:
    """A command does not outlive the `exec` that started it, even when that is killed."""
    argv = [*EGRESSLAB, "exec", "--lab", bookinfo.name, "firewall", "--"]

    with subprocess.Popen([*argv, "sleep", "98765"], env=ENVIRONMENT) as process:
        try:
            ready.until("the command runs", lambda: _runs(host, "sleep 98765"), seconds=10)
        finally:
            process.kill()
    ready.until("the command is gone", lambda: not _runs(host, "sleep 98765"), seconds=5)


def test_exec_passes_sigterm_on(bookinfo: NamespaceLab, host: Callable[[str], Any]) -> None:
    """A command is told when its `exec` is to end, and may end in its own way."""
    script = "trap 'kill $!; exit 9' TERM; sleep 98764 & wait"
    argv = [*EGRESSLAB, "exec", "--lab", bookinfo.name, "firewall", "--", "sh", "-c", script]
    with subprocess.Popen(argv, env=ENVIRONMENT) as process:
        try:
            ready.until("the command runs", lambda: _runs(host, "sleep 98764"), seconds=10)
            process.terminate()
            assert process.wait(COMMAND_SECONDS) == 9
        finally:
            process.kill()


def _runs(host: Callable[[str], Any], command: str) -> bool:
    return bool(host("firewall").run(f"ps -eo args= | grep -q '^{command}'").succeeded)


def test_logs(bookinfo: NamespaceLab) -> None:
    """`logs` shows what a node's programs printed."""
    shown = egresslab("logs", "--lab", bookinfo.name, "www.f5.com")
    assert shown.returncode == 0, shown.stderr
    assert '"ready"' in shown.stdout


def test_capture(bookinfo: NamespaceLab) -> None:
    """`capture` shows packets as they pass a tap, and ends after as many as it was told."""
    argv = [*EGRESSLAB, "capture", "--lab", bookinfo.name, "--tap", "bigip.nodes"]
    with subprocess.Popen(
        [*argv, "-c", "1", "tcp port 3128"], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    ) as process:

        def ended() -> bool:
            bookinfo.run(BARE, ["curl", "-sS", "-m", "1", "http://10.4.0.201:3128/"], seconds=5)
            return process.poll() is not None

        ready.until("a packet was captured", ended, seconds=COMMAND_SECONDS)
        assert process.stdout is not None
        shown = process.stdout.read()
    assert process.returncode == 0
    assert "3128" in shown
    assert len(shown.splitlines()) == 1
