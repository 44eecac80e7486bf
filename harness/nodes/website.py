"""A web site on the internet: HTTPS with a certificate of a public authority of the lab, and plain HTTP beside it."""

from __future__ import annotations

from typing import Literal

from harness.lab import Outside

FORWARDS = False


class Spec(Outside):
    """A web site in a lab file; its name is its host name."""

    kind: Literal["website"]
    tls: Literal["public", "none"] = "public"
