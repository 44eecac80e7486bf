"""The API server of a cluster: objects applied, waited for and removed by label. The one door to the kubernetes SDK.

The SDK reads kubeconfig files, with whatever proves who we are in them, and makes connections; requests are our own,
since the objects are plain data. Transport failures and answers that say "later" are tried again, until a named wait
is over; any other refusal is a result and ends the matter.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from harness.drivers.k3d import manifest
from harness.drivers.k3d.objects import CLUSTER_WIDE, Object, collection, path_of, spoken
from harness.errors import LabError, MissingCapability, StartError
from harness.ready import NotInTime, until

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

MANAGER = "egresslab"
_LATER = (408, 429, 500, 502, 503, 504)
"""Statuses after which a client is to come again (Kubernetes API Concepts; the API of a cluster that starts)."""
_NONE, _CONFLICT = 404, 409
PATIENCE = 60.0
EVERY = 0.25


class Refused(LabError):
    """The API server would not do what it was asked for; the message has its own words."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


class Unreachable(LabError):
    """No answer came from the API server."""


class Api:
    """One connection to one cluster; `patience` is for how many seconds a request is tried again."""

    def __init__(
        self, client: ApiClient, *, patience: float = PATIENCE, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._client = client
        self._patience = patience
        self._sleep = sleep

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def get(self, path: str) -> Any:
        """Return what is at a path; raises Refused (404 where nothing is), or Unreachable."""
        return self._patiently("GET", path)

    def has(self, path: str) -> bool:
        """Tell whether something is at a path."""
        try:
            self.get(path)
        except Refused as error:
            if error.status != _NONE:
                raise
            return False
        return True

    def answers(self) -> bool:
        """Tell whether the API server says that it is ready; once, without trying again."""
        try:
            self._once("GET", "/readyz")
        except (Refused, Unreachable):
            return False
        return True

    def apply(self, found: Object) -> None:
        """Have an object as it is given (server-side apply, as the manager `egresslab`); raises Refused."""
        query = urlencode({"fieldManager": MANAGER, "force": "true"})
        try:
            self._patiently("PATCH", f"{path_of(found)}?{query}", found, kind="application/apply-patch+yaml")
        except Refused as error:
            raise Refused(error.status, f"{spoken(found)}: {error}") from error

    def apply_all(self, objects: Iterable[Object], told: Callable[[str], None] | None = None) -> None:
        """Apply objects in their order; `told` hears of each."""
        for found in objects:
            if told is not None:
                told(spoken(found))
            self.apply(found)

    def create_pod(self, found: Object) -> None:
        """Have a pod as it is given, made anew: most of a pod cannot be changed."""
        path = path_of(found)
        if self.has(path):
            self._patiently("DELETE", f"{path}?gracePeriodSeconds=0")
            self.wait_until(f"{spoken(found)} of before to be gone", lambda: not self.has(path), seconds=60.0)
        self.apply(found)

    def remove(self, label: str, kinds: Sequence[tuple[str, str]]) -> None:
        """Remove the objects of these kinds, (apiVersion, kind), that carry a label `key=value`, wherever they are."""
        for api, kind in kinds:
            query = urlencode({"labelSelector": label})
            try:
                listed = self.get(f"{collection(api, kind, None)}?{query}")
            except Refused as error:
                if error.status == _NONE:  # the cluster has no such kind
                    continue
                raise
            for found in listed.get("items", ()):
                namespace = None if kind in CLUSTER_WIDE else found["metadata"].get("namespace")
                self._removed(f"{collection(api, kind, namespace)}/{quote(found['metadata']['name'])}")

    def wait_until(
        self, what: str, done: Callable[[], bool], *, seconds: float, why: Callable[[], str] | None = None
    ) -> None:
        """Wait for something by its name; raises StartError that says what was waited for, and `why` it is not so."""
        try:
            until(what, done, seconds=seconds, every=EVERY, sleep=self._sleep)
        except NotInTime as error:
            reason = why() if why is not None else ""
            raise StartError(f"waited for {error}" + (f": {reason}" if reason else "")) from error

    def _removed(self, path: str) -> None:
        try:
            self._patiently("DELETE", path)
        except Refused as error:
            if error.status != _NONE:  # somebody was faster
                raise

    def _patiently(self, method: str, path: str, body: Object | None = None, kind: str = "") -> Any:
        """Return an answer; comes again where nobody answered, or the answer was to come again."""
        last: list[LabError] = []

        def tried() -> list[Any] | None:
            try:
                return [self._once(method, path, body, kind)]
            except Unreachable as error:
                last[:] = [error]
            except Refused as error:
                if error.status not in _LATER:
                    raise
                last[:] = [error]
            return None

        try:
            return until(
                "the API server's answer", tried, seconds=self._patience, every=EVERY, sleep=self._sleep
            )[0]
        except NotInTime:
            raise last[0] from None

    def _once(self, method: str, path: str, body: Object | None = None, kind: str = "") -> Any:
        import urllib3  # noqa: PLC0415 - comes with the SDK
        from kubernetes.client import ApiException  # noqa: PLC0415 - costs 0.46 s

        settings = self._client.configuration
        headers = {"Accept": "application/json", "User-Agent": MANAGER}
        for auth in settings.auth_settings().values():
            headers[auth["key"]] = auth["value"]
        if body is not None:
            headers["Content-Type"] = kind
        try:
            answer = self._client.rest_client.request(
                method,
                settings.host + path,
                headers=headers,
                # JSON is YAML, and a text is passed on as it is
                body=json.dumps(body) if body is not None else None,
                _request_timeout=(5.0, 60.0),
            )
            data = answer.read() if hasattr(answer, "read") else answer.data
            status = int(answer.status)
        except ApiException as error:
            if not error.status:
                raise Unreachable(f"{settings.host}: {error.reason}") from error
            data, status = error.body or b"", int(error.status)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Unreachable(f"{settings.host}: {error}") from error
        text = data.decode(errors="replace") if isinstance(data, bytes) else str(data or "")
        if status >= 400:
            raise Refused(status, _words(text) or f"the API server answered {status}")
        return json.loads(text) if text.startswith(("{", "[")) else text


def connected(kubeconfig: str | None = None, context: str | None = None) -> Api:
    """Return the API of a kubeconfig's text, or of a context of the user's own files.

    Raises MissingCapability where there is no such context.
    """
    from kubernetes import config  # noqa: PLC0415 - costs 0.46 s

    try:
        if kubeconfig is not None:
            client = config.new_client_from_config_dict(manifest.values_of(kubeconfig))
        else:
            client = config.new_client_from_config(context=context)
    except config.ConfigException as error:
        raise MissingCapability(
            "cluster", f"context {context!r}: {error}; `kubectl config get-contexts` lists them"
        ) from error
    client.configuration.retries = False
    return Api(client)


def _words(text: str) -> str:
    """Return the message of an answer of kind Status."""
    try:
        found = json.loads(text)
    except ValueError:
        return text.strip()[:300]
    return str(found.get("message", "")) if isinstance(found, dict) else ""
