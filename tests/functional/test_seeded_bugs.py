"""Faults put into the C, one at a time: each loads, and some test of packets finds it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bpf.loader import SOURCE

ROOT = Path(__file__).parents[2]
GOLDEN = ("tests/packets/test_fastpath.py",)
NATIVE = ("tests/packets/test_native.py",)
XDP = ("tests/packets/test_xdp.py",)
AGREEMENT = ("tests/functional/test_agreement.py", "-k", "mutated")
ALL = "OVERWEAVE_SEEDED_BUGS"  # set: every one of them, not a quarter
_PARSE, _VERDICT, _ENCAP, _OVERLAY = "parse.h", "verdict.h", "encap.h", "overlay.c"

# What was written, and what is written instead; the tests that must notice.
BUGS = {
    "any-source-mac": (
        _VERDICT,
        "if (port->guard != GUARD_OFF && !same_mac(header->h_source, port->mac))",
        "if (0)",
        GOLDEN,
    ),
    "any-source-address": (
        _VERDICT,
        "port->guard != GUARD_IP)\n\t\treturn 1;\n\tfor",
        "1)\n\t\treturn 1;\n\tfor",
        GOLDEN,
    ),
    "mapped-source-address": (_VERDICT, "if (is_mapped_ipv4(&ip->saddr))", "if (0)", GOLDEN),
    "back-to-the-sender": (_VERDICT, "entry->ifindex == ifindex)", "0)", GOLDEN),
    "one-byte-too-large": (_VERDICT, "<= port->mtu;", "<= port->mtu + 1;", GOLDEN),
    "segments-without-headers": (_VERDICT, "+ inner->headers", "+ 0 * inner->headers", NATIVE),
    "tcp-options-forgotten": (_VERDICT, "tcp->doff * 4", "20", NATIVE),
    "udp-segments": (_VERDICT, "gso_size && inner->protocol", "0 && inner->protocol", NATIVE),
    "first-fragments": (_PARSE, "(0x3fff)", "(0x1fff)", GOLDEN),
    "inner-options": (_VERDICT, "if (ip->ihl != 5)", "if (ip->ihl > 15)", AGREEMENT),
    "longer-than-the-frame": (_VERDICT, " || total > length", "", GOLDEN),
    "arp-answer-is-a-question": (_VERDICT, "__constant_htons(ARP_REPLY);", "0x100;", GOLDEN),
    "arp-of-other-hardware": (_VERDICT, "arp->protocol_bytes != 4 ||", "", AGREEMENT),
    "arp-probe-is-forged": (_VERDICT, "(source_known || sender == 0)", "source_known", GOLDEN),
    "nd-flags": (_VERDICT, "0x60000000", "0x40000000", GOLDEN),
    "nd-checksum": (_VERDICT, "nd->checksum = ~fold(", "nd->checksum = fold(", GOLDEN),
    "nd-code": (_VERDICT, "nd->code != 0 ||", "", GOLDEN),
    "nd-from-afar": (_VERDICT, "nd->ip.hop_limit != 255 ||", "", GOLDEN),
    "nd-option-of-two-words": (_VERDICT, "|| nd->option_words != 1 ||", "||", AGREEMENT),
    "answers-detection-of-duplicates": (_VERDICT, "is_unspecified(inner->source) ||", "", GOLDEN),
    "answers-for-the-asker": (_VERDICT, "return !same_mac(mac, port->mac);", "return 1;", GOLDEN),
    "link-local-bit": (_VERDICT, "address[8] ^ 2", "address[8]", GOLDEN),
    "may-be-fragmented": (_ENCAP, "__constant_htons(0x4000)", "0", GOLDEN),
    "hop-limit": (_ENCAP, "OUTER_HOPS 64", "OUTER_HOPS 63", GOLDEN),
    "mark-outside": (_ENCAP, "inner == ECN_CE ? ECN_ECT_0 : inner", "inner", GOLDEN),
    "vni-shifted": (_ENCAP, "(vni << 8)", "(vni)", GOLDEN),
    "udp-length": (_ENCAP, "entry, bytes - sizeof(*ip),", "entry, bytes,", GOLDEN),
    "payload-length": (_ENCAP, "sizeof(*outer) - sizeof(outer->ip)", "sizeof(*outer)", GOLDEN),
    "source-port-below-the-range": (_ENCAP, "FIRST_SOURCE_PORT +", "", GOLDEN),
    "anybody-is-a-member": (_VERDICT, "return has_member(&member);", "return 1;", GOLDEN),
    "tunnel-to-tunnel": (_VERDICT, "|| entry->kind == ENTRY_REMOTE)", ")", GOLDEN),
    "reserved-bits": (_VERDICT, "!(header->vni & __constant_htonl(0xff))", "1", AGREEMENT),
    "mark-not-told": (_VERDICT, "outer->ecn == ECN_CE", "outer->ecn > ECN_CE", GOLDEN),
    "damaged-header": (_PARSE, "fold(sum16(ip, sizeof(*ip))) != 0xffff", "0", GOLDEN),
    "bytes-behind-the-packet": (_VERDICT, "outer->bytes == length &&", "", GOLDEN),
    "strangers-in-a-shared-port": (
        _VERDICT,
        "socket->flags & OWN_EXCLUSIVE ? VERDICT_DROP : VERDICT_HOST",
        "VERDICT_DROP",
        XDP,
    ),
    "padding-is-no-frame": (_VERDICT, "socket->encap) > length)", "0) > outer->bytes)", AGREEMENT),
    "options-are-damage": (
        _VERDICT,
        "outer->has_fault && outer->l4 == ETH_HLEN + sizeof(struct iphdr);",
        "outer->has_fault;",
        XDP,
    ),
    "any-geneve-version": (_VERDICT, "__constant_htonl(0xc0000000)", "0", XDP),
    "geneve-options-forgotten": (_VERDICT, "sizeof(struct tunnelled) + 4 * words", "22", XDP),
    "early-without-fast-path": (
        _VERDICT,
        "!(socket->flags & OWN_FAST) || !same_mac(((",
        "!same_mac(((",
        XDP,
    ),
    "for-another-mac": (
        _VERDICT,
        "!same_mac(((const struct ethhdr *)eth)->h_dest, nic->mac))",
        "is_group(((const struct ethhdr *)eth)->h_dest))",
        XDP,
    ),
    "payload-is-pulled": (
        _VERDICT,
        "? sizeof(struct iphdr) + sizeof(struct tcphdr)",
        "? sizeof(struct nd_packet)",
        NATIVE,
    ),
    "damaged-udp": (_OVERLAY, "return !udp->check ||", "return 1 ||", GOLDEN),
    "too-little-taken-off": (
        _OVERLAY,
        "sizeof(struct tunnelled) - ETH_HLEN;",
        "sizeof(struct tunnelled);",
        GOLDEN,
    ),
    "other-family-moved-back": (_OVERLAY, "? IPV6_MORE : -IPV6_MORE", "? -20 : 20", GOLDEN),
    "less-than-a-header": (_VERDICT, "if (!holds_ip(outer, found, length))", "if (0)", GOLDEN),
    "mtu-of-the-frame": (_OVERLAY, "skb->len, skb->gso_size,", "skb->len + 14, 0,", NATIVE),
}


def chosen() -> list[str]:
    return list(BUGS) if ALL in os.environ else list(BUGS)[::4]


@pytest.mark.parametrize("name", chosen())
def test_a_seeded_bug_is_found(tmp_path: Path, name: str) -> None:
    file, right, wrong, tests = BUGS[name]
    source = tmp_path / "bpf"
    shutil.copytree(SOURCE, source)
    text = (source / file).read_text(encoding="ascii")
    assert text.count(right) == 1
    (source / file).write_text(text.replace(right, wrong), encoding="ascii")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests],
        cwd=ROOT,
        env={**os.environ, "OVERWEAVE_TEST_BPF": str(source), "OVERWEAVE_MUTATION_SEEDS": "40"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "LoadError" not in done.stdout, "no test is needed to find what does not load"
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    assert "1 failed" in done.stdout.splitlines()[-1]
