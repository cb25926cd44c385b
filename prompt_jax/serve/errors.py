"""What goes wrong with a request: one shape for all, `{"error": {"message", "type", "param"}}`."""

import re
from typing import Any

from starlette.responses import JSONResponse

from prompt_jax.errors import RunError, UserError
from prompt_jax.serve.requests import Busy

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "unavailable_error",
}
RETRY_AFTER = 1  # seconds


class HttpError(Exception):
    """An answer with a status of 400 or above."""

    def __init__(self, status: int, message: str, param: str | None = None):
        super().__init__(message)
        self.status, self.message, self.param = status, message, param

    def body(self) -> dict[str, Any]:
        kind = TYPES[self.status]
        return {"error": {"message": self.message, "type": kind, "param": self.param}}

    def response(self) -> JSONResponse:
        headers = {}
        if self.status in (429, 503):
            headers["Retry-After"] = str(RETRY_AFTER)
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body(), self.status, headers=headers)


def of_engine(error: Exception) -> HttpError:
    """An engine's error as an answer."""
    if isinstance(error, Busy):
        return HttpError(429, f"too much waits: {error}")
    if isinstance(error, TimeoutError):
        return HttpError(503, "the deadline passed before all was answered")
    if isinstance(error, RunError):
        return HttpError(503, str(error))
    assert isinstance(error, UserError), error
    param = re.match(r"[a-z_]+", str(error.where))
    status = 404 if error.problem == "is not loaded" else 422
    return HttpError(status, str(error), param and param[0])
