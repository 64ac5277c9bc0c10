"""Results for the line's own software: by MQTT or by a webhook, in order, at least once, however long it is away.

What a destination has got stands in the store, so nothing is lost by a restart of either side.
"""

from __future__ import annotations

import json
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from threading import Event, Thread
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from flawmap.core.errors import ConfigError
from flawmap.service.store import Result, Store

log = logging.getLogger(__name__)

SECONDS = 10.0  # that a destination may take for a result
FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0  # seconds between tries
IDLE_SECONDS = 1.0
PASSWORD = "FLAWMAP_MQTT_PASSWORD"  # an environment variable, for a broker's user without a password in the address


class Away(Exception):
    """A destination did not take a result; it is tried again."""


class Destination(Protocol):
    """name: without secrets; it names what has been delivered."""

    name: str

    def send(self, result: Result) -> None:
        """Raises Away."""

    def close(self) -> None: ...


class Webhook:
    """Each result as JSON by POST; any status below 300 is thanks."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"a webhook is http://HOST/PATH or https://HOST/PATH, got {url}")
        self.name, self._url = f"webhook {parts.scheme}://{parts.hostname}:{parts.port or ''}{parts.path}", url

    def send(self, result: Result) -> None:
        body = json.dumps(result.to_dict()).encode()
        headers = {"Content-Type": "application/json", "Idempotency-Key": result.id}
        request = urllib.request.Request(self._url, body, headers, method="POST")  # http and https alone, see above
        try:
            with urllib.request.urlopen(request, timeout=SECONDS):
                pass
        except urllib.error.HTTPError as error:
            raise Away(f"it answers {error.code}") from None
        except OSError as error:
            raise Away(str(error)) from None

    def close(self) -> None: ...


class Broker(NamedTuple):
    """Of mqtt://[USER[:PASSWORD]@]HOST[:PORT]/TOPIC, mqtts for TLS."""

    host: str
    port: int
    topic: str
    user: str | None
    password: str | None
    tls: bool


class Mqtt:
    """Each result as JSON to TOPIC/MODEL, with quality of service 1."""

    def __init__(self, url: str) -> None:
        broker = broker_of(url)
        from paho.mqtt.client import Client  # noqa: PLC0415 - an extra
        from paho.mqtt.enums import CallbackAPIVersion  # noqa: PLC0415

        self.name = f"mqtt {broker.host}:{broker.port}/{broker.topic}"
        self._broker, self._client = broker, Client(CallbackAPIVersion.VERSION2)
        if broker.user is not None:
            self._client.username_pw_set(broker.user, broker.password or os.environ.get(PASSWORD))
        if broker.tls:
            self._client.tls_set()
        self._client.reconnect_delay_set(1, int(LONGEST_WAIT))
        self._started = False

    def send(self, result: Result) -> None:
        try:
            if not self._started:
                self._client.connect(self._broker.host, self._broker.port, keepalive=30)
                self._client.loop_start()
                self._started = True
            message = self._client.publish(f"{self._broker.topic}/{result.model}", json.dumps(result.to_dict()), qos=1)
            message.wait_for_publish(SECONDS)
            if not message.is_published():
                raise Away(f"it did not take a message within {SECONDS:g} s")
        except (OSError, RuntimeError, ValueError) as error:
            raise Away(str(error)) from None

    def close(self) -> None:
        self._client.disconnect()
        if self._started:
            self._client.loop_stop()


def broker_of(url: str) -> Broker:
    """Raises ConfigError for anything but mqtt://HOST/TOPIC or mqtts://HOST/TOPIC."""
    parts, topic = urlsplit(url), urlsplit(url).path.strip("/")
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or not topic or "+" in topic or "#" in url:
        raise ConfigError(f"a broker is mqtt://HOST/TOPIC, mqtts:// with TLS, and a topic without + and #, got {url}")
    tls = parts.scheme == "mqtts"
    return Broker(parts.hostname, parts.port or (8883 if tls else 1883), topic, parts.username, parts.password, tls)


class Publisher:
    """Delivers the store's new results to a destination, on a thread of its own, from the first to the last."""

    def __init__(
        self, store: Store, destination: Destination, say: Callable[[str], Any] = lambda text: log.warning("%s", text)
    ) -> None:
        self._store, self._destination, self._say = store, destination, say
        self._news, self._ended = Event(), False
        store.undelivered(destination.name, 1)  # from now on
        self._thread = Thread(target=self._run, name="publisher", daemon=True)
        self._thread.start()

    def tell(self) -> None:
        """There may be something to deliver. From any thread."""
        self._news.set()

    def _run(self) -> None:
        wait = FIRST_WAIT
        away = False
        while not self._ended:
            try:
                some = self._deliver()
            except Away as error:
                if not away:
                    self._say(f"{self._destination.name} is away: {error}; results wait in the store")
                away, wait = True, min(2 * wait, LONGEST_WAIT)
                self._pause(wait / 2)
            else:
                if away and some:
                    self._say(f"{self._destination.name} is back")
                    away = False
                wait = FIRST_WAIT
                if not some:
                    self._pause(IDLE_SECONDS)

    def _deliver(self) -> bool:
        rows = self._store.undelivered(self._destination.name)
        for number, result in rows:
            if self._ended:
                return False
            self._destination.send(result)
            self._store.delivered(self._destination.name, number)
        return bool(rows)

    def _pause(self, seconds: float) -> None:
        self._news.wait(seconds)
        self._news.clear()

    def close(self) -> None:
        """Ends after the result that is on its way; before the store is closed."""
        self._ended = True
        self._news.set()
        self._thread.join(SECONDS + 1)
        self._destination.close()


def destinations_of(mqtt: str | None, webhook: str | None) -> list[Destination]:
    """Raises ConfigError for an address that is none."""
    found: list[Destination] = []
    if mqtt is not None:
        found.append(Mqtt(mqtt))
    if webhook is not None:
        found.append(Webhook(webhook))
    return found
