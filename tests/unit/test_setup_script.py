"""What set-up finds missing on a machine, by its own shell function."""

from __future__ import annotations

import subprocess
from pathlib import Path

SETUP = Path(__file__).parents[2] / ".ci" / "setup"


def missing_packages(libraries: str) -> list[str]:
    """Return what .ci/setup finds missing where every program is there and ldconfig prints `libraries`."""
    text = SETUP.read_text()
    begin = text.index("missing_packages() {")
    function = text[begin : text.index("\n}\n", begin) + 3]
    script = f"""set -euo pipefail
        programs="sh=dash"; tools=/nonexistent; pcap=libpcap.so.0.8
        ldconfig() {{ {libraries} }}
        {function}
        missing_packages"""
    return subprocess.run(["bash", "-c", script], check=True, capture_output=True, text=True).stdout.split()


def test_a_library_is_found_however_much_stands_after_it() -> None:
    """What ldconfig prints may go on for longer than a pipe holds after the line that is looked for."""
    assert missing_packages("echo 'libpcap.so.0.8 (libc6) => /usr/lib'; seq 200000;") == []


def test_a_library_that_is_not_there_is_missing() -> None:
    """Its package is named, so that it gets installed."""
    assert missing_packages("echo 'libpcre.so.3 (libc6) => /usr/lib';") == ["libpcap0.8"]
