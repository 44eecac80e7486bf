"""`egresslab learn` on a lab that stands: what it drafts holds as it stands, and denies whoever is not let out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from command_line import egresslab
from small_lab import own_name, standing, write

from harness import source
from harness.learn_file import lines
from harness.learned import learn
from harness.run import Session
from harness.scenario import load_scenarios

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.live


def test_what_is_learned_holds_as_it_stands(tmp_path: Path) -> None:
    """Only the tenant reaches the site through the proxy; every other flow has a denial, and all of it holds."""
    files = write(tmp_path, [])
    path = tmp_path / "learned.yaml"
    with standing(files, own_name("learned")) as lab:
        path.write_text("\n".join(lines("lab.yaml", learn(lab.lab))) + "\n", encoding="utf-8")
        items = load_scenarios(path)
        session = Session(lab.lab, items)
        wrong = [
            f"{item.id}: {verdict}"
            for item in items
            if (verdict := session.run(item).verdict).state != "held"
        ]
    assert not wrong
    found = source.read(path).data["scenarios"]
    through = {one["name"]: one for one in found if one.get("through") == "bigip-proxy-svc.bookinfo:3128"}
    reached = through["https://www.f5.com through bigip-proxy-svc.bookinfo:3128 is reached"]
    assert reached["from"] == ["bookinfo/traffic-generator"]
    assert reached["expect"]["allowed"]["path"][-1] == "www.f5.com"
    name = "https://www.f5.com through bigip-proxy-svc.bookinfo:3128 is rejected at bigip by bookinfo-only"
    assert through[name]["from"] == ["sm-apigw-a/nettools"]
    assert through[name]["expect"]["rejected"]["unseen_by"] == ["firewall", "tinyproxy", "www.f5.com"]
    dropped = next(one for one in found if one["to"] == "tcp://tinyproxy:8888" and "dropped" in one["expect"])
    assert dropped["expect"]["dropped"] == {
        "at": "firewall",
        "by": "default",
        "unseen_by": ["tinyproxy", "www.f5.com"],
    }


def test_a_file_that_exists_is_not_written_over(tmp_path: Path) -> None:
    """What was learned goes to a new file only; nothing is started for another."""
    path = tmp_path / "mine.yaml"
    path.write_text("mine", encoding="utf-8")
    done = egresslab("learn", "legacy-database", "-o", str(path))
    assert done.returncode == 2
    assert f"{path}: the file exists already; name another" in done.stderr
    assert path.read_text(encoding="utf-8") == "mine"
