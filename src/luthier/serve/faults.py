"""What is wrong with a request, in OpenAI's shape of an error."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from luthier.errors import LuthierError

KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
    504: "timeout_error",
}


class ApiFault(Exception):
    """A request that is not answered: `param` names the field, `code` is for programs."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    @property
    def content(self) -> dict[str, Any]:
        """The body of the answer."""
        kind = KINDS.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def body(self) -> bytes:
        """The same as bytes, whatever the client put into what is quoted."""
        return json.dumps(self.content).encode()


def of(error: LuthierError, param: str | None = None) -> ApiFault:
    """A fault that the library tells, as the client's: what is wrong and what to do about it."""
    fix = f"; {error.fix}" if error.fix else ""
    code = "context_length_exceeded" if "context ends at" in error.what else None
    return ApiFault(400, f"{error.what}{fix}", param=param, code=code)


def unexpected(error: BaseException) -> ApiFault:
    """A fault of ours."""
    first = (str(error).strip().splitlines() or [""])[0][:200]
    return ApiFault(500, f"something went wrong inside the server: {type(error).__name__}: {first}".rstrip(": "))
