"""The channel between host and DPU, as the configuration says it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from dataplane.api.attachment import AttachmentService
from dataplane.api.dpu import DpuClient
from dataplane.cli.main import run
from dataplane.config import AgentConfig, parse_config
from dataplane.core.errors import InvalidValueError
from dataplane.halves import Halves
from dataplane.pki.certificates import shown
from dataplane.vf_ports import VfPorts
from tests.functional.certificates import DAY, NOW, Files, Pki, free_port
from tests.functional.cni_world import FakeAttachments

PLACES = ("run_dir: {0}/run", "state_dir: {0}/state")


def config(directory: Path, node: str, device: str, files: Files | None) -> AgentConfig:
    text = [f"node: {node}", "underlay: {interface: eth0}", "fabric: {remote: 'unix:/f'}"]
    text += [each.format(directory) for each in PLACES]
    text += ["devices:", f"- {{serial: M1, vendor: marvell, {device}}}"]
    if files:
        text += ["tls:", *(f"  {key}: {path}" for key, path in files.items())]
    (directory / "run").mkdir(exist_ok=True)
    return parse_config("\n".join(text), "agent.yaml")


def both(directory: Path, channel: tuple[str, str], pki: Pki | None) -> list[AgentConfig]:
    """Return what configures host h1 and DPU d1; ``channel`` is what each says of it."""
    vfs, reps = "vfs: [{device_id: x, netdev: vf0}]", "representors: [rep0], switch: {}"
    host = config(
        directory, "h1", f"side: host, {channel[0]}, {vfs}", pki.node("h1") if pki else None
    )
    dpu = config(
        directory, "d1", f"side: dpu, {channel[1]} {reps}", pki.node("d1") if pki else None
    )
    return [host, dpu]


def answers(host: AgentConfig, dpu: AgentConfig, address: str) -> str:
    service = AttachmentService(VfPorts("d1", FakeAttachments()), {"M1": ("rep0",)})
    server = Halves(dpu).serve_host(service)
    try:
        return DpuClient(Halves(host).channels(host.devices)).served(address, 5.0).node
    finally:
        server.stop(None).wait()


def test_on_a_socket(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/run/attachment.sock"
    host, dpu = both(tmp_path, (f"attachment: '{address}'", ""), None)
    assert answers(host, dpu, address) == "d1"
    assert (Halves(host).mode, Halves(host).problems()) == ("", ())


@pytest.mark.parametrize("where", ["127.0.0.1", "[::1]", "localhost"])
def test_over_a_network(tmp_path: Path, where: str) -> None:
    address = f"ssl:{where}:{free_port()}"
    channel = f"attachment: '{address}', peer: "
    host, dpu = both(tmp_path, (f"{channel} d1", f"{channel} h1,"), Pki(tmp_path))
    assert answers(host, dpu, address) == "d1"
    assert (Halves(host).mode, Halves(dpu).mode) == (f"{address} with d1", f"{address} with h1")
    assert not (tmp_path / "run" / "attachment.sock").exists()


@pytest.mark.parametrize(
    ("age", "told"),
    [
        pytest.param(0 * DAY, "", id="new"),
        pytest.param(8.9 * DAY, "", id="with a tenth left"),
        pytest.param(9.5 * DAY, f"ends on {shown(NOW + 0.5 * DAY)}; renew it: ", id="ends soon"),
        pytest.param(11 * DAY, f"has expired on {shown(NOW - DAY)}; renew it: ", id="expired"),
    ],
)
def test_a_certificate_that_ends_is_told(tmp_path: Path, age: timedelta, told: str) -> None:
    pki, channel = Pki(tmp_path), "attachment: 'ssl:127.0.0.1:5', peer: d1"
    files = pki.node("h1", when=NOW - age)
    vfs = "vfs: [{device_id: x, netdev: vf0}]"
    host = Halves(config(tmp_path, "h1", f"side: host, {channel}, {vfs}", files))
    found = " ".join(host.problems())
    wanted = f"certificate {files['certificate']} {told}overweave pki renew h1" if told else ""
    assert found == wanted
    pki.node("h1")
    assert host.problems() == ()


def test_an_agent_with_another_nodes_certificate_does_not_start(tmp_path: Path) -> None:
    files, channel = Pki(tmp_path).node("h2"), "attachment: 'ssl:127.0.0.1:5', peer: d1"
    wrong = config(
        tmp_path, "h1", f"side: host, {channel}, vfs: [{{device_id: x, netdev: vf0}}]", files
    )
    with pytest.raises(InvalidValueError, match=r"is of h2 \(role node\), and not of h1"):
        Halves(wrong)


def test_the_check_of_a_configuration_reads_the_certificate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = Pki(tmp_path).node("h1")
    keys = ", ".join(f"{key}: {path}" for key, path in files.items())
    text = f"node: h1\nunderlay: {{interface: e}}\nfabric: {{remote: 'unix:/f'}}\ntls: {{{keys}}}\n"
    (tmp_path / "agent.yaml").write_text(text)
    command = ["config", "check", str(tmp_path / "agent.yaml")]
    assert run(command) == 0
    files["private_key"].chmod(0o644)
    assert run(command) == 2
    assert "chmod 600" in capsys.readouterr().err
