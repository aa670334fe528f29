"""Framing of JSON-RPC text: any value, cut anywhere, gives what the standard library reads."""

import json
from itertools import pairwise
from typing import Any

import ovs.json
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_client.fast_json import Parser

ATOMS = st.none() | st.booleans() | st.integers() | st.text()
VALUES = st.recursive(
    ATOMS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20
)
MESSAGES = st.lists(VALUES) | st.dictionaries(st.text(), VALUES)


def parse(chunks: list[str]) -> list[Any]:
    """Read like ovs.jsonrpc.Connection.recv does."""
    values = []
    parser = Parser()
    for chunk in chunks:
        rest = chunk
        while rest:
            rest = rest[parser.feed(rest) :]
            if parser.is_done():
                values.append(parser.finish())
                parser = Parser()
    return values


@given(
    messages=st.lists(MESSAGES, min_size=1, max_size=3), ascii_only=st.booleans(), data=st.data()
)
def test_messages_survive_any_cut(
    messages: list[Any], *, ascii_only: bool, data: st.DataObject
) -> None:
    text = "".join(json.dumps(message, ensure_ascii=ascii_only) for message in messages)
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=6).map(sorted))
    edges = [0, *cuts, len(text)]
    chunks = [text[start:end] for start, end in pairwise(edges)]
    assert parse(chunks) == messages


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('["\\\\"]', id="escaped backslash before the quote"),
        pytest.param('["\\""]', id="escaped quote"),
        pytest.param('{"a]}[{": "\\\\\\""}', id="structure inside strings"),
        pytest.param("[]", id="empty array"),
        pytest.param("{}", id="empty object"),
        pytest.param('[[[[{"a": [{}]}]]]]', id="nested"),
    ],
)
def test_every_single_cut(text: str) -> None:
    for cut in range(len(text) + 1):
        assert parse([text[:cut], text[cut:]]) == [json.loads(text)]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("HTTP/1.1 400 Bad Request\r\n", id="another protocol"),
        pytest.param("]", id="closes what was not open"),
        pytest.param("{]", id="closes with the wrong bracket"),
        pytest.param('{"a" 1}', id="no colon"),
        pytest.param("[1,]", id="trailing comma"),
    ],
)
def test_garbage_is_an_error_at_once(text: str) -> None:
    """The library takes a string for an error, and drops the connection."""
    parser = Parser()
    parser.feed(text)
    assert parser.is_done()
    assert isinstance(parser.finish(), str)


def test_the_library_uses_it() -> None:
    import ovs_client.session  # noqa: F401, PLC0415  # what is tested is that importing it does

    assert ovs.json.PARSER == ovs.json.PARSER_C or ovs.json.Parser is Parser
