"""The Rust test that starts pytest gives these: a bundle, one without a policy, servers, and what the toy answers."""

import os
from pathlib import Path

import margay
import pytest

QUESTION = "I am Ada Lovelace, ada@example.com"


@pytest.fixture(scope="session")
def expected() -> str:
    return os.environ["MARGAY_EXPECTED"]


@pytest.fixture(scope="session")
def plain() -> str:
    return os.environ["MARGAY_PLAIN_BUNDLE"]


@pytest.fixture(scope="session")
def bundle() -> margay.Bundle:
    return margay.Bundle.open(os.environ["MARGAY_BUNDLE"])


@pytest.fixture(scope="session")
def engine(bundle: margay.Bundle) -> margay.Engine:
    return margay.Engine.load(bundle, margay.DeviceOptions(threads=1))


class Tokens(margay.TokenProvider):
    """Gives tokens and remembers for what; or fails."""

    def __init__(self, fails: bool = False) -> None:
        self.renewed: list[bool] = []
        self.fails = fails

    def token(self, renewed: bool) -> str:
        self.renewed.append(renewed)
        if self.fails:
            raise margay.CallbackError.Failed(detail="the key store is locked")
        return "second-token" if renewed else "first-token"


class Names(margay.Redactor):
    """Takes out a name; or fails in a way that nobody foresaw."""

    def __init__(self, fails: bool = False) -> None:
        self.fails = fails

    def redact(self, text: str) -> list[margay.Redaction]:
        if self.fails:
            raise ZeroDivisionError
        return [margay.Redaction(label="NAME", part="Ada Lovelace")]


@pytest.fixture
def tokens() -> Tokens:
    return Tokens()


def options(server: str) -> margay.CloudOptions:
    """The way to one of the servers of `runtime/bindings/uniffi/tests/scenario/mod.rs`."""
    roots = Path(os.environ["MARGAY_AUTHORITIES"]).read_text()
    endpoint = dict(line.split() for line in os.environ["MARGAY_SERVERS"].splitlines())[server]
    return margay.CloudOptions(endpoint=endpoint, model="large", redact_patterns=True, roots_pem=roots, attempts=1)


def request(task: str | None = None, **more: object) -> margay.Request:
    message = margay.Message(role="user", content=QUESTION)
    return margay.Request(messages=[message], task=task, max_tokens=12, **more)  # type: ignore[arg-type]
