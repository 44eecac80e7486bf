"""What a BIG-IP would be told: golden declarations, AS3's rules as far as they are known, the iRule's own logic.

None of it was run on a BIG-IP; the iRule's procedures run in the Tcl of this machine, where there is one.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from mesh_certificates import Mesh
from proxy_bench import PREFIX, PRODUCTPAGE, STRANGER
from small_tenants import plan_of

from harness import bigip, shipped
from harness.agent.bind import bind
from harness.errors import InputError
from harness.lab import load_lab
from harness.nodes.egress_proxy import Match, Rule
from harness.plan import make_plan

if TYPE_CHECKING:
    from collections.abc import Iterator

PLANS = Path(__file__).parents[1] / "plans"
LABS = {
    "two-policies": PLANS / "bigip-two-policies.yaml",
    "bookinfo-egress": shipped.find_lab("bookinfo-egress"),
}
POINTERS = {
    "Service_TCP": ("serverTLS", "pool", "snat", "iRules"),
    "TLS_Server": ("certificates", "authenticationTrustCA"),
}
"""Properties that name another object of the application, by class."""
CLASSES = {
    "Service_TCP": {"remark", "virtualAddresses", "virtualPort", "serverTLS", "pool", "snat", "iRules"},
    "TLS_Server": {
        "certificates",
        "authenticationMode",
        "authenticationFrequency",
        "authenticationTrustCA",
        "cacheTimeout",
    },
    "Certificate": {"certificate", "privateKey", "chainCA"},
    "CA_Bundle": {"bundle"},
    "SNAT_Pool": {"snatAddresses"},
    "iRule": {"iRule"},
    "Pool": {"members"},
}
"""The properties that we use of each class, all of them in AS3's schema reference."""

needs_tcl = pytest.mark.skipif(not shutil.which("tclsh"), reason="no tclsh to run the iRule's procedures in")


def declared(path: Path) -> dict[str, Any]:
    """Return the declaration of a lab file."""
    plan = make_plan(load_lab(path))
    return bigip.declaration(plan, bind(plan))


def applications(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield every application of a declaration."""
    for tenant in found["declaration"].values():
        if isinstance(tenant, dict) and tenant.get("class") == "Tenant":
            yield from (app for app in tenant.values() if isinstance(app, dict))


@pytest.mark.parametrize("name", LABS)
def test_the_declaration_is_the_golden_one(name: str) -> None:
    """What is rendered is what stands in tests/plans, to the letter: a change of it is seen in review."""
    golden = PLANS / f"bigip-{name}.json"
    assert json.dumps(declared(LABS[name]), indent=2) + "\n" == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", LABS)
def test_the_declaration_has_as3s_form(name: str) -> None:
    """Only known classes and properties; every name that is pointed to is there; names and remarks have AS3's form."""
    found = declared(LABS[name])
    assert (found["class"], found["declaration"]["class"]) == ("AS3", "ADC")
    assert re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+", found["declaration"]["schemaVersion"])
    assert len(found["declaration"]["remark"]) <= 64
    assert list(applications(found))
    for application in applications(found):
        assert application["class"] == "Application"
        parts = {key: value for key, value in application.items() if isinstance(value, dict)}
        for key, part in parts.items():
            assert re.fullmatch(r"[A-Za-z][0-9A-Za-z_]{0,63}", key)
            assert set(part) - {"class"} == CLASSES[part["class"]]
            for pointer in POINTERS.get(part["class"], ()):
                assert set(_names(part[pointer])) <= set(parts), (key, pointer)


def _names(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for one in value:
            yield from _names(one)
    elif isinstance(value, dict):
        yield from value.values()
    elif value != "auto":
        yield value


def test_every_rendering_says_that_it_was_not_run() -> None:
    """Whoever finds the declaration or the iRule without this project learns that nobody tried it."""
    found = declared(LABS["bookinfo-egress"])
    assert "not run on a BIG-IP" in found["declaration"]["remark"]
    assert "Not run on a BIG-IP" in bigip.irule("p", ())


def test_no_private_key_is_rendered() -> None:
    """Certificates and keys are pointed to."""
    assert "PRIVATE KEY" not in json.dumps(declared(LABS["bookinfo-egress"]))


def test_a_lab_without_proxies_is_refused() -> None:
    """There is nothing to render, and the message says so."""
    plan = plan_of("lab: l\nnetworks: {a: {cidr: 10.0.0.0/24}}\noutside: {w: {kind: website, on: [a]}}\n")
    with pytest.raises(InputError, match="no egress proxy"):
        bigip.declaration(plan, bind(plan))


def test_names_that_as3_cannot_tell_apart_are_refused() -> None:
    """AS3 has fewer letters for names than lab files: `a-b` and `a.b` would be one object."""
    text = (
        LABS["two-policies"].read_text(encoding="utf-8").replace("3rd-party:", "r.d:").replace("red:", "r-d:")
    )
    plan = plan_of(text.replace("{pool: red}", "{pool: r-d}"))
    with pytest.raises(InputError, match="'r_d'"):
        bigip.declaration(plan, bind(plan))


_TCL = r"""
proc call { name args } { uplevel #0 [list $name {*}$args] }
proc when { event body } { set ::body $body }
proc log { facility words } { puts $words }
proc reject {} { puts rejected }
namespace eval SSL { proc cert { what } { return 1 } }
namespace eval X509 { proc whole { cert } { return $cert }; proc pem2der { pem } { return $::der } }
set rule [open [lindex $argv 0]]
eval [read $rule]
set ::der [binary decode base64 [lindex $argv 1]]
eval $::body
"""
"""What an iRule finds on a BIG-IP, as far as this one uses it, in front of the rule itself."""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Mesh:
    """Return an authority."""
    return Mesh(tmp_path_factory.mktemp("bigip") / "mesh")


def decided(folder: Path, der: bytes, *rules: Rule) -> list[str]:
    """Run the iRule on a certificate and return what it logs, and `rejected`."""
    rule, before = folder / "rule.tcl", folder / "before.tcl"
    rule.write_text(bigip.irule("bookinfo-only", rules), encoding="utf-8")
    before.write_text(_TCL, encoding="utf-8")
    argv = ["tclsh", str(before), str(rule), base64.b64encode(der).decode()]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()


def der_of(mesh: Mesh, *uris: str, dns: tuple[str, ...] = ()) -> bytes:
    """Return a leaf with these names in DER."""
    chain = Path(mesh.leaf(*uris, dns=dns).chain).read_bytes()
    return x509.load_pem_x509_certificate(chain).public_bytes(Encoding.DER)


PERMIT = Rule(permit=Match(spiffe_prefix=PREFIX))
REJECT_ONE = Rule(reject=Match(spiffe_id=PRODUCTPAGE))


@needs_tcl
def test_the_irule_permits_and_rejects_by_the_one_name(mesh: Mesh, tmp_path: Path) -> None:
    """A matching name passes; another, two, none, or the name as a DNS name is rejected."""
    assert decided(tmp_path, der_of(mesh, PRODUCTPAGE), PERMIT) == [
        f"PERMITTED by bookinfo-only: {PRODUCTPAGE}"
    ]
    for uris, dns in (
        ((STRANGER,), ()),
        ((PRODUCTPAGE, STRANGER), ()),
        ((), ("a.example",)),
        ((STRANGER,), (f"x,URI:{PRODUCTPAGE}",)),
        ((PREFIX.removesuffix("/"),), ()),
    ):
        said = decided(tmp_path, der_of(mesh, *uris, dns=dns), PERMIT)
        assert said == [f"REJECTED by bookinfo-only: {','.join(uris)}", "rejected"]


@needs_tcl
def test_the_irule_keeps_the_order_of_rules(mesh: Mesh, tmp_path: Path) -> None:
    """The first match decides, and no rule at all rejects."""
    both = (REJECT_ONE, PERMIT)
    assert decided(tmp_path, der_of(mesh, PRODUCTPAGE), *both)[-1] == "rejected"
    assert decided(tmp_path, der_of(mesh, f"{PRODUCTPAGE}2"), *both)[-1] != "rejected"
    assert decided(tmp_path, der_of(mesh, PRODUCTPAGE))[-1] == "rejected"


@needs_tcl
def test_a_certificate_that_cannot_be_read_has_no_name(mesh: Mesh, tmp_path: Path) -> None:
    """Cut anywhere, or with a length that lies, it is rejected."""
    whole = der_of(mesh, PRODUCTPAGE)
    for der in (b"", whole[:100], whole[:-1], whole + b"\0", b"\x30\x80" + whole[2:]):
        assert decided(tmp_path, der, PERMIT) == ["REJECTED by bookinfo-only: ", "rejected"]


@needs_tcl
def test_what_a_rule_says_is_text_to_tcl(mesh: Mesh, tmp_path: Path) -> None:
    """No command, variable or quote of a prefix is read as Tcl."""
    hostile = Rule(permit=Match(spiffe_prefix='spiffe://"; puts [exec id]; # $argv {'))
    said = decided(tmp_path, der_of(mesh, PRODUCTPAGE), hostile)
    assert said == [f"REJECTED by bookinfo-only: {PRODUCTPAGE}", "rejected"]
