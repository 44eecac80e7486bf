"""What the proxy's TLS says of a handshake that came to nothing."""

from __future__ import annotations

import ssl

import pytest

from harness.programs.tls import reason_of


@pytest.mark.parametrize(
    "error",
    [
        ssl.SSLEOFError(8, "EOF occurred in violation of protocol (_ssl.c:992)"),
        ssl.SSLZeroReturnError(6, "TLS/SSL connection has been closed (EOF) (_ssl.c:992)"),
    ],
)
def test_an_end_has_one_name(error: ssl.SSLError) -> None:
    """Python 3.11.2 and 3.11.7 tell the same end by different exceptions; the log has one word for it."""
    assert reason_of(error) == "UNEXPECTED_EOF_WHILE_READING"


def test_another_failure_keeps_its_own_words() -> None:
    """Where OpenSSL gave no reason, what Python says stands."""
    assert "something else" in reason_of(ssl.SSLError(1, "something else"))
