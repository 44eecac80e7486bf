"""What a TLS client shows of itself: the certificate, versions and session of a probe."""

from __future__ import annotations

import os
import ssl
import warnings
from dataclasses import dataclass


@dataclass(frozen=True)
class Offer:
    """A certificate's chain with a key (PEM, both or none), and the oldest and newest TLS version that are offered.

    With `resumes`, a connection with the certificate comes first; the flow itself takes up that one's session, and
    has no certificate.
    """

    chain: str = ""
    key: str = ""
    oldest: str = "TLSv1_2"
    newest: str = "TLSv1_3"
    resumes: bool = False


def context_of(offer: Offer) -> ssl.SSLContext:
    """Return a client's context, which takes any server for good; who it is gets judged from other evidence.

    Raises ValueError for a version that there is not, ssl.SSLError for a pair that OpenSSL does not take.
    """
    context = _any_server()
    try:
        oldest, newest = ssl.TLSVersion[offer.oldest], ssl.TLSVersion[offer.newest]
    except KeyError as error:
        raise ValueError(f"no version of TLS is called {error}") from None
    if oldest < ssl.TLSVersion.TLSv1_2:
        # at higher levels OpenSSL signs no handshake of TLS 1.0 and 1.1, whose hash is SHA-1
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
    _limit(context, oldest, newest)
    if offer.chain:
        _load(context, offer)
    return context


def bare(context: ssl.SSLContext) -> ssl.SSLContext:
    """Return a context of the same versions that has no certificate."""
    made = _any_server()
    _limit(made, context.minimum_version, context.maximum_version)
    return made


def _limit(context: ssl.SSLContext, oldest: int, newest: int) -> None:
    with warnings.catch_warnings():  # of old versions Python warns, for which one would offer them
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version, context.maximum_version = ssl.TLSVersion(oldest), ssl.TLSVersion(newest)


def _any_server() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _load(context: ssl.SSLContext, offer: Offer) -> None:
    """Load a pair from memory; OpenSSL takes files only."""
    memory = [os.memfd_create(name) for name in ("chain", "key")]
    try:
        for fd, text in zip(memory, (offer.chain, offer.key), strict=True):
            os.write(fd, text.encode("ascii"))
        context.load_cert_chain(*(f"/proc/self/fd/{fd}" for fd in memory))
    finally:
        for fd in memory:
            os.close(fd)
