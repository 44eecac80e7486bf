"""The agent: from a plan to what stands where nodes are, and the process that builds, runs and records it there.

Drivers say where it runs: the namespace driver has one for a whole lab, in its sandbox; the k3d driver one in each
container. It knows no kinds of nodes and no drivers.
"""

from __future__ import annotations

PROTOCOL = 1
"""The number of the control protocol; both sides must speak the same."""
