"""A small language model on the device that knows when to ask a large one.

Calls that end in ``_blocking`` wait, and let other threads run meanwhile; the others are coroutines, and a task that is
cancelled stops its query. Failures are raised as the kinds of `MargayError`.
"""

from .margay_uniffi import (
    Answer,
    AnswerStream,
    BlockingStream,
    Bundle,
    BundleOptions,
    CallbackError,
    Cancel,
    Cascade,
    CascadeOptions,
    Choice,
    Cloud,
    CloudOptions,
    DeviceOptions,
    Dialect,
    Engine,
    Generation,
    MargayError,
    Message,
    Normalise,
    OnCloudFailure,
    Origin,
    ProviderPolicy,
    Redaction,
    Redactor,
    Request,
    Sampling,
    ScoredAnswer,
    StreamEvent,
    StreamMode,
    Token,
    TokenListener,
    TokenProvider,
    Tokens,
    Verdict,
    version,
)

__all__ = [name for name in dir() if not name.startswith("_") and name != "margay_uniffi"]


async def _events(stream):
    try:
        while (event := await stream.next()) is not None:
            yield event
    finally:
        stream.end()


def _ended(stream, *_):
    stream.end()


# A traceback says what went wrong, not how it is kept.
MargayError.__str__ = CallbackError.__str__ = lambda error: error.detail

# What Python has for streams: `for`, `async for`, and `with`, whose end cancels what was still to come.
AnswerStream.__aiter__ = _events
BlockingStream.__iter__ = lambda stream: iter(stream.next, None)
BlockingStream.__enter__ = lambda stream: stream
BlockingStream.__exit__ = _ended
