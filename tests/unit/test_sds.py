"""Certificates as Envoy takes them from files: one file each, a version of its own for each content."""

from __future__ import annotations

import json
from dataclasses import replace

from harness import sds
from harness.identity import Leaf
from harness.plan import Ready

LEAF = Leaf("chain\n", "key\n")


def test_a_secret_is_one_live_file() -> None:
    """Certificate and key stand in one DiscoveryResponse, for their owner only; roots in one for everybody."""
    file = sds.leaf_file("exit", LEAF)
    response = json.loads(file.content)
    (secret,) = response["resources"]
    assert (file.live, file.mode) == (True, 0o600)
    assert secret["name"] == "exit"
    assert secret["tls_certificate"] == {
        "certificate_chain": {"inline_string": "chain\n"},
        "private_key": {"inline_string": "key\n"},
    }
    trust = sds.trust_file("roots", "root\n")
    assert (trust.live, trust.mode) == (True, 0o644)
    assert json.loads(trust.content)["resources"][0]["validation_context"] == {
        "trusted_ca": {"inline_string": "root\n"}
    }


def test_a_reference_leads_to_the_secrets_file() -> None:
    """What the configuration names is where the file lies in the node's folder."""
    config = sds.reference("/run/lab/proxy", "exit")
    source = config["sds_config"]
    assert isinstance(source, dict)
    assert source["path_config_source"] == {"path": f"/run/lab/proxy/{sds.leaf_file('exit', LEAF).path}"}


def test_each_content_has_its_version() -> None:
    """Another key is another version, the same content the same one, so that going back is noticed too."""
    versions = [
        json.loads(sds.leaf_file("exit", leaf).content)["version_info"]
        for leaf in (LEAF, replace(LEAF, key="other\n"), LEAF)
    ]
    assert versions[0] == versions[2] != versions[1]


def test_only_secrets_that_are_asked_for_are_waited_for() -> None:
    """Envoy fetches what its configuration names; where that is none there is nothing to wait for."""
    leaf, roots = sds.leaf_file("exit", LEAF), sds.trust_file("roots", "root\n")
    config = json.dumps(sds.references("/run/lab/proxy", "exit", "absent"))
    version = json.loads(leaf.content)["version_info"]
    assert sds.applied("/run/admin.sock", (leaf, roots), config) == Ready(
        "versions", f"/run/admin.sock {version}"
    )
    assert sds.applied("/run/admin.sock", (leaf, roots), "{}") == Ready()
