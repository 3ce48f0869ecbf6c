"""Requests that are not answered, as OpenAI's clients understand it."""

from __future__ import annotations

from pydantic import BaseModel


class Refused(Exception):
    """A request that is not answered: the status, and OpenAI's error object."""

    def __init__(
        self, message: str, param: str | None = None, status: int = 400, code: str | None = None
    ) -> None:
        message = message.encode("utf-8", "replace").decode()  # it may quote half a character
        super().__init__(message)
        self.status = status
        self.headers = {"Retry-After": "1"} if status == 429 else {}
        kind = "authentication_error" if status == 401 else "invalid_request_error"
        kind = "rate_limit_error" if status == 429 else kind
        kind = "server_error" if status >= 500 else kind
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


class Mistake(BaseModel):
    """What was wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class Problem(BaseModel):
    """The body of every answer that is none."""

    error: Mistake
