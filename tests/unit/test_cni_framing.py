"""The shim and the agent must mean the same bytes, though they share no code."""

from __future__ import annotations

import ast
import json
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.cni import framing, shim, strict_json, tombstones
from dataplane.cni.errors import CniError
from dataplane.cni.version import Version


def test_the_shim_imports_nothing_that_takes_time() -> None:
    tree = ast.parse(Path(shim.__file__).read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {name.name for node in imports for name in node.names}
    assert names == {"_socket", "posix"}


def test_what_shim_and_agent_both_know_is_the_same() -> None:
    assert shim.GREETING == framing.GREETING
    assert [version.decode() for version in shim.VERSIONS] == list(Version)
    assert shim.MAX_CONFIG == strict_json.MAX_BYTES
    assert f"/{tombstones.DIRECTORY}".encode() in Path(shim.__file__).read_bytes()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        pytest.param(b"", "header", id="nothing"),
        pytest.param(b"3\n", "header", id="one-length"),
        pytest.param(b"a b\n", "header", id="letters"),
        pytest.param(b"-1 5\n", "header", id="negative"),
        pytest.param(b"9 0\nabc", "3 of 9", id="cut-off"),
        pytest.param(b"1 1\nabc", "3 of 2", id="too-long"),
        pytest.param(b"0 9999999\n", "9999999", id="too-large"),
        pytest.param(b"9" * 70, "header", id="no-end"),
    ],
)
def test_a_request_that_is_not_whole_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(CniError, match=words) as caught:
        framing.unpack_invocation(data)
    assert caught.value.code == 5


_NAMES = st.text(string.ascii_letters + string.digits + "_", min_size=1, max_size=10)
_VALUES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


@given(st.dictionaries(_NAMES, _VALUES, max_size=5), st.binary(max_size=50))
def test_environment_and_stdin_arrive_byte_for_byte(
    environment: dict[str, str], config: bytes
) -> None:
    raw = {name.encode(): value.encode() for name, value in environment.items()}
    invocation = framing.unpack_invocation(shim.pack(raw, config))
    assert invocation.environment == raw
    assert invocation.config == config


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just("agentSocket"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=8) | st.just("agentSocket"), inner, max_size=3)
    ),
    max_leaves=10,
)
_TOP = st.dictionaries(st.text('ab"\\{}[]:, ', max_size=6) | st.just("agentSocket"), _JSON)


@given(_TOP, st.sampled_from([{}, {"indent": 1}, {"ensure_ascii": False}]))
def test_the_shim_finds_the_socket_that_the_parser_would(
    config: dict[str, object], style: dict[str, Any]
) -> None:
    text = json.dumps(config, **style).encode()
    value = config.get("agentSocket")
    found = shim.top_level_text(text, b"agentSocket")
    if not isinstance(value, str):
        assert found is None
    else:
        assert found == json.dumps(value, **style)[1:-1].encode()


@given(st.binary(max_size=100))
def test_no_bytes_stop_the_shim(config: bytes) -> None:
    for text in (config, b'{"agentSocket"' + config, b'{"agentSocket": "' + config):
        found = shim.top_level_text(text, b"agentSocket")
        assert found is None or found in text


def test_a_long_configuration_is_searched_quickly() -> None:
    quotes = json.dumps({"a": '"' * 500_000, "agentSocket": "/x"}).encode()
    assert shim.top_level_text(quotes, b"agentSocket") == b"/x"
