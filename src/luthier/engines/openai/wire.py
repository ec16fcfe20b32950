"""Calls over HTTP: made again where that may help, faults in plain words, the key in the header and nowhere else."""

from __future__ import annotations

import json
import os
import random
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import requests
from requests.auth import AuthBase

from luthier.errors import LuthierError

MOMENTARY = (408, 409, 425, 429, 500, 502, 503, 504, 529)
"""Statuses after which the same call may well succeed."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0
"""Seconds before the first repetition; they double up to the longest."""
CONNECTING = 15.0
SHOWN = 300
"""Characters of an endpoint's own message."""
FIXES = {
    400: "mend what it complains of; docs/generation.md says what is sent",
    401: "put the right key into the environment variable that `key_env` names",
    402: "see to the account that the key belongs to",
    403: "take a key that may use this model",
    404: "check `url` (it ends in /v1 for most endpoints) and `model`; an endpoint may lack `ask: text` or `ask: chat`",
    413: "shorten the prompt",
    422: "mend what it complains of; docs/generation.md says what is sent",
}


class Stopped(Exception):
    """Nobody waits for this call any more."""


class Patience:
    """What a call waits for. `begin` is called before each attempt: it may wait there until the pace allows one."""

    def __init__(self, stopped: threading.Event) -> None:
        self._stopped = stopped

    def begin(self) -> None:
        """An attempt is about to be made. Raises Stopped."""
        self.wait(0)

    def wait(self, seconds: float) -> None:
        """Raises Stopped where nobody waits for the call any more."""
        if self._stopped.wait(seconds):
            raise Stopped


class Refused(LuthierError):
    """The endpoint said no, with this status."""

    def __init__(self, status: int, what: str, *, where: str, fix: str) -> None:
        self.status = status
        super().__init__(what, where=where, fix=fix)


class _Momentary(Exception):
    """A failure after which the call is made again. `after`: the seconds that the endpoint asks for."""

    def __init__(self, what: str, after: float = 0.0) -> None:
        self.what, self.after = what, after


class _Key(AuthBase):
    """Puts the key into the header; also keeps `requests` from taking another one out of ~/.netrc."""

    def __init__(self, key: str | None) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request


class Wire:
    """One address. May be used by several threads at once."""

    def __init__(self, url: str, variable: str | None, *, timeout: float, retries: int) -> None:
        """`variable` of the environment holds the key; None: none is sent. Raises LuthierError where it is not set."""
        self.url, self._timeout, self._retries = url.rstrip("/"), timeout, retries
        self._key = key_of(variable, self.url)
        self._own = threading.local()
        self._reached = False
        """Has it ever answered? Before that, nobody listening is a fault, not a hitch."""

    def post(self, path: str, body: Mapping[str, Any], patience: Patience) -> dict[str, Any]:
        """The answer to a call. Raises LuthierError where it is refused, or fails again and again; Stopped."""
        with self._opened(path, body, patience, stream=False) as answer:
            try:
                content = answer.json()
            except ValueError:
                content = None
        if not isinstance(content, dict):
            raise LuthierError(
                f"the endpoint's answer is no JSON object: {self._clean(answer.text)!r}",
                where=f"{self.url}{path}",
                fix="check `url`: this seems to be no endpoint that speaks OpenAI's protocol",
            )
        return content

    def tell(self, method: str, path: str, body: Mapping[str, Any]) -> None:
        """A call whose answer says no more than that it was done. Raises Refused, and LuthierError as `post` does."""
        self._opened(path, body, Patience(threading.Event()), stream=False, method=method).close()

    def parts(self, path: str, body: Mapping[str, Any], patience: Patience) -> Iterator[dict[str, Any]]:
        """The parts of a streamed answer. Raises LuthierError as `post` does, and where it breaks off."""
        with self._opened(path, body, patience, stream=True) as answer:
            try:
                for line in answer.iter_lines():
                    data = line.decode("utf-8", "replace").removeprefix("data:").strip()
                    if line.startswith(b"data:") and data != "[DONE]":
                        part = json.loads(data)
                        if isinstance(part, dict) and "error" in part:
                            raise self._refused(200, _message(part), path)
                        yield part
            except (requests.RequestException, ValueError) as error:
                raise LuthierError(
                    f"the answer broke off: {self._clean(_why(error))}", where=f"{self.url}{path}", fix="ask again"
                ) from None

    def _opened(
        self, path: str, body: Mapping[str, Any], patience: Patience, *, stream: bool, method: str = "POST"
    ) -> requests.Response:
        wait, last = FIRST_WAIT, ""
        for attempt in range(self._retries + 1):
            patience.begin()
            try:
                return self._once(method, path, body, stream)
            except _Momentary as failure:
                last = failure.what
                if attempt == self._retries:
                    break
                # the jitter keeps callers that failed together from coming back together
                pause = max(failure.after, wait * random.uniform(0.5, 1.0))
                wait = min(2 * wait, LONGEST_WAIT)
            patience.wait(pause)
        raise LuthierError(
            f"the endpoint failed {self._retries + 1} times; the last time: {last}",
            where=f"{self.url}{path}",
            fix="wait and run the same again, lower `concurrency`, or set requests_per_minute or tokens_per_minute",
        )

    def _once(self, method: str, path: str, body: Mapping[str, Any], stream: bool) -> requests.Response:
        try:
            answer = self._session.request(
                method,
                self.url + path,
                json=body,
                timeout=(CONNECTING, self._timeout),
                stream=stream,
                allow_redirects=False,  # it would make another kind of call, perhaps elsewhere
            )
        except requests.exceptions.SSLError as error:
            raise self._unreachable(error, path) from None
        except (requests.Timeout, requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
            if not self._reached and isinstance(_innermost(error), ConnectionRefusedError | socket.gaierror):
                raise self._unreachable(error, path) from None
            raise _Momentary(self._clean(_why(error))) from None
        except (requests.RequestException, UnicodeError) as error:
            raise self._unreachable(error, path) from None
        self._reached = True
        if answer.status_code == 200:
            return answer
        with answer:
            message, spent = self._clean(_message(_content(answer))), _is_spent(_content(answer))
            status = answer.status_code
            if status in MOMENTARY and not spent:
                raise _Momentary(f"{status}: {message}", _after(answer.headers))
            if 300 <= status < 400:
                message = f"it has moved to {self._clean(answer.headers.get('Location', 'elsewhere'))}"
            raise self._refused(status, message, path)

    @property
    def _session(self) -> requests.Session:
        """This thread's own: a session is not made for several."""
        found: requests.Session | None = getattr(self._own, "session", None)
        if found is None:
            found = self._own.session = requests.Session()
            found.auth = _Key(self._key)
        return found

    def _refused(self, status: int, message: str, path: str) -> LuthierError:
        fix = FIXES.get(status, "see what the endpoint says; its own log may say more")
        return Refused(status, f"the endpoint answered {status}: {message}", where=f"{self.url}{path}", fix=fix)

    def _unreachable(self, error: Exception, path: str) -> LuthierError:
        return LuthierError(
            f"the endpoint cannot be reached: {self._clean(_why(error))}",
            where=f"{self.url}{path}",
            fix="start it, or check `url`",
        )

    def _clean(self, text: str) -> str:
        """A text from outside: without the key, whole or with stars in it, on one line, and short."""
        if self._key:
            text = text.replace(self._key, "…")
        text = re.sub(r"\S*\*{3,}\S*", "…", text)
        text = " ".join(text.split())
        return text if len(text) <= SHOWN else text[:SHOWN] + " …"


def key_of(variable: str | None, url: str) -> str | None:
    """The key that this variable of the environment holds. Raises LuthierError where it holds none."""
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise LuthierError(
            f"the environment variable {variable}, which holds the key for this endpoint, is not set",
            where=url,
            fix=f"set it: export {variable}=…, or name another by `key_env`",
        )
    if not (key.isascii() and key.isprintable()):
        raise LuthierError(
            f"the environment variable {variable} holds what no key is: a character that no header takes",
            where=url,
            fix="copy the key again",
        )
    return key


def _content(answer: requests.Response) -> Any:
    try:
        return answer.json()
    except (ValueError, requests.RequestException):
        try:
            return answer.text
        except requests.RequestException:
            return ""


def _message(content: Any) -> str:
    """What an endpoint says is wrong, in whichever of the forms that are about."""
    while isinstance(content, dict):
        key = next((key for key in ("error", "message", "detail") if content.get(key)), None)
        content = json.dumps(content) if key is None else content[key]
    if isinstance(content, list):
        content = json.dumps(content)
    return str(content or "no reason given")


def _is_spent(content: Any) -> bool:
    """Is the account empty? Waiting does not fill it."""
    return "insufficient_quota" in json.dumps(content, default=str)


def _why(error: BaseException) -> str:
    """The reason in words."""
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    error = _innermost(error)
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _innermost(error: BaseException) -> BaseException:
    """What is surrounded by faults that name objects of libraries."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return error


def _after(headers: Mapping[str, str]) -> float:
    """How many seconds the endpoint wants to be left alone; 0 where it says nothing that can be read."""
    milliseconds, said = headers.get("retry-after-ms"), headers.get("Retry-After", "")
    try:
        if milliseconds is not None:
            return max(0.0, float(milliseconds) / 1000)
        return max(0.0, float(said))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(said).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0
