"""nftables without starting a program: libnftables through ctypes (libnftables(3))."""

from __future__ import annotations

import ctypes
import json
import threading
import weakref
from functools import cache
from typing import Any

_JSON = 1 << 4  # NFT_CTX_OUTPUT_JSON

Counters = dict[tuple[str, str, str], tuple[int, int]]
"""(family, table, name) of a named counter to (packets, bytes)."""


class NftError(Exception):
    """The rules were refused; the text is what nft(8) would print."""


class Nft:
    """A context in the network namespace that the calling thread is in now; it stays there for good.

    Any thread may use it, one at a time. Raises NftError when the library is not installed.
    """

    def __init__(self) -> None:
        library = _library()
        # the socket is opened here, and with it the namespace chosen
        context = library.nft_ctx_new(0)
        if not context:
            raise NftError("libnftables gave no context")
        self._library = library
        self._context = ctypes.c_void_p(context)
        self._turn = threading.Lock()
        self._free = weakref.finalize(self, library.nft_ctx_free, self._context)
        library.nft_ctx_buffer_output(self._context)
        library.nft_ctx_buffer_error(self._context)

    def close(self) -> None:
        """Free the context; what it loaded stays."""
        self._free()

    def run(self, commands: str) -> None:
        """Run commands in the syntax of nft(8), all of them or none.

        Raises NftError with what nft printed.
        """
        with self._turn:
            self._run(commands, 0)

    def run_json(self, command: str) -> dict[str, Any]:
        """Run a command that lists, and return libnftables-json(5).

        Raises NftError with what nft printed.
        """
        with self._turn:
            printed = self._run(command, _JSON)
        answer: dict[str, Any] = json.loads(printed) if printed else {"nftables": []}
        return answer

    def counters(self) -> Counters:
        """Return all named counters."""
        found: Counters = {}
        for item in self.run_json("list counters")["nftables"]:
            if "counter" in item:
                one = item["counter"]
                found[one["family"], one["table"], one["name"]] = (one["packets"], one["bytes"])
        return found

    def _run(self, commands: str, flags: int) -> bytes:
        if not self._free.alive:
            raise NftError("the context is closed")
        self._library.nft_ctx_output_set_flags(self._context, flags)
        failed = self._library.nft_run_cmd_from_buffer(self._context, commands.encode())
        # reading a buffer empties it, so both are read in any case
        printed: bytes = self._library.nft_ctx_get_output_buffer(self._context) or b""
        complaint: bytes = self._library.nft_ctx_get_error_buffer(self._context) or b""
        if failed:
            raise NftError(complaint.decode(errors="replace").strip() or "nft refused and gave no reason")
        return printed


@cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libnftables.so.1")
    except OSError as error:
        raise NftError(f"libnftables.so.1 cannot be loaded (Debian: libnftables1): {error}") from None
    pointer = ctypes.c_void_p
    library.nft_ctx_new.restype = pointer
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    library.nft_ctx_free.argtypes = [pointer]
    library.nft_ctx_free.restype = None
    library.nft_ctx_buffer_output.argtypes = [pointer]
    library.nft_ctx_buffer_error.argtypes = [pointer]
    library.nft_ctx_output_set_flags.argtypes = [pointer, ctypes.c_uint]
    library.nft_ctx_output_set_flags.restype = None
    library.nft_run_cmd_from_buffer.argtypes = [pointer, ctypes.c_char_p]
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(library, name).argtypes = [pointer]
        getattr(library, name).restype = ctypes.c_char_p
    return library
