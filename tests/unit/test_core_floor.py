"""Which losses of rows wait for a second look."""

import pytest

from dataplane.core.floor import is_sudden


@pytest.mark.parametrize(
    ("lost", "seen", "sudden"),
    [
        pytest.param(0, 0, False, id="nothing"),
        pytest.param(10, 10, False, id="all of a handful"),
        pytest.param(11, 11, True, id="all of a few more"),
        pytest.param(11, 54, True, id="just over a fifth"),
        pytest.param(11, 55, False, id="exactly a fifth"),
        pytest.param(200, 1000, False, id="a fifth of many"),
        pytest.param(201, 1000, True, id="over a fifth of many"),
        pytest.param(1000, 1000, True, id="everything"),
    ],
)
def test_floor(lost: int, seen: int, *, sudden: bool) -> None:
    assert is_sudden(lost, seen) is sudden
