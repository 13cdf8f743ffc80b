"""Types of everything here; made by `stubs.py` from what UniFFI generates."""

import enum
from collections.abc import AsyncGenerator, Iterator
from datetime import timedelta
from types import TracebackType
from typing import Self

__all__ = [
    "Answer",
    "AnswerStream",
    "BlockingStream",
    "Bundle",
    "BundleOptions",
    "CallbackError",
    "Cancel",
    "Cascade",
    "CascadeOptions",
    "Choice",
    "Cloud",
    "CloudOptions",
    "DeviceOptions",
    "Dialect",
    "Engine",
    "Generation",
    "MargayError",
    "Message",
    "Normalise",
    "OnCloudFailure",
    "Origin",
    "ProviderPolicy",
    "Redaction",
    "Redactor",
    "Request",
    "Sampling",
    "ScoredAnswer",
    "StreamEvent",
    "StreamMode",
    "Token",
    "TokenListener",
    "TokenProvider",
    "Tokens",
    "Verdict",
    "version",
]

class Answer:
    text: str
    origin: Origin
    score: float | None
    threshold: float
    rule: str
    reason: str | None
    cloud_error: MargayError | None
    finish_reason: str | None
    local_tokens: Tokens
    cloud_tokens: Tokens | None
    saved_tokens: int
    attempts: int
    local_time: timedelta
    cloud_time: timedelta | None
    total_time: timedelta
    model_digest: str
    def __init__(self, *, text: str, origin: Origin, score: float | None, threshold: float, rule: str, reason: str | None, cloud_error: MargayError | None, finish_reason: str | None, local_tokens: Tokens, cloud_tokens: Tokens | None, saved_tokens: int, attempts: int, local_time: timedelta, cloud_time: timedelta | None, total_time: timedelta, model_digest: str) -> None: ...

class AnswerStream:
    def end(self) -> None: ...
    async def next(self) -> StreamEvent | None: ...
    def __aiter__(self) -> AsyncGenerator[StreamEvent, None]: ...

class BlockingStream:
    def end(self) -> None: ...
    def next(self) -> StreamEvent | None: ...
    def __iter__(self) -> Iterator[StreamEvent]: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /) -> None: ...

class Bundle:
    @classmethod
    def open(cls, path: str, options: BundleOptions | None = ...) -> Bundle: ...
    def context_length(self) -> int: ...
    def has_policy(self) -> bool: ...
    def model_digest(self) -> str: ...
    def name(self) -> str: ...
    def signers(self) -> list[str]: ...

class BundleOptions:
    trusted_keys: list[str]
    require_signature: bool
    cache: str | None
    def __init__(self, *, trusted_keys: list[str] = ..., require_signature: bool = ..., cache: str | None = ...) -> None: ...

class CallbackError(Exception):
    detail: str
    class Failed(CallbackError):
        detail: str
        def __init__(self, detail: str) -> None: ...

class Cancel:
    def __init__(self) -> None: ...
    def cancel(self) -> None: ...
    def is_cancelled(self) -> bool: ...

class Cascade:
    def __init__(self, engine: Engine, cloud: Cloud, options: CascadeOptions | None = ...) -> None: ...
    @classmethod
    def configured(cls, engine: Engine, path: str) -> Cascade: ...
    async def answer(self, request: Request) -> Answer: ...
    def answer_blocking(self, request: Request) -> Answer: ...
    async def answer_local(self, request: Request) -> Answer: ...
    def answer_local_blocking(self, request: Request) -> Answer: ...
    def stream(self, request: Request, mode: StreamMode) -> AnswerStream: ...
    def stream_blocking(self, request: Request, mode: StreamMode) -> BlockingStream: ...

class CascadeOptions:
    on_cloud_failure: OnCloudFailure | None
    breaker_failures: int
    breaker_pause: timedelta | None
    def __init__(self, *, on_cloud_failure: OnCloudFailure | None = ..., breaker_failures: int = ..., breaker_pause: timedelta | None = ...) -> None: ...

class Choice:
    best: int
    answers: list[ScoredAnswer]
    verdict: Verdict | None
    def __init__(self, *, best: int, answers: list[ScoredAnswer], verdict: Verdict | None) -> None: ...

class Cloud:
    def __init__(self, options: CloudOptions, token_provider: TokenProvider | None = ..., redactor: Redactor | None = ...) -> None: ...

class CloudOptions:
    endpoint: str
    model: str
    dialect: Dialect | None
    redact_patterns: bool
    roots_pem: str | None
    platform_roots: bool
    pins: list[str]
    attempts: int
    connect_timeout: timedelta | None
    attempt_timeout: timedelta | None
    def __init__(self, *, endpoint: str, model: str, dialect: Dialect | None = ..., redact_patterns: bool = ..., roots_pem: str | None = ..., platform_roots: bool = ..., pins: list[str] = ..., attempts: int = ..., connect_timeout: timedelta | None = ..., attempt_timeout: timedelta | None = ...) -> None: ...

class DeviceOptions:
    library: str | None
    threads: int | None
    memory_cap: int | None
    queue: int
    providers: list[str]
    provider_policy: ProviderPolicy | None
    cache_dir: str | None
    prefix_cache: bool
    def __init__(self, *, library: str | None = ..., threads: int | None = ..., memory_cap: int | None = ..., queue: int = ..., providers: list[str] = ..., provider_policy: ProviderPolicy | None = ..., cache_dir: str | None = ..., prefix_cache: bool = ...) -> None: ...

class Dialect(enum.Enum):
    OPEN_AI = 0
    ANTHROPIC = 1
    GEMINI = 2

class Engine:
    @classmethod
    def load(cls, bundle: Bundle, options: DeviceOptions | None = ...) -> Engine: ...
    async def choose(self, request: Request, answers: list[str], normalise: Normalise | None = ..., with_stop_token: bool = ...) -> Choice: ...
    def choose_blocking(self, request: Request, answers: list[str], normalise: Normalise | None = ..., with_stop_token: bool = ...) -> Choice: ...
    async def generate(self, request: Request, listener: TokenListener | None = ...) -> Generation: ...
    def generate_blocking(self, request: Request, listener: TokenListener | None = ...) -> Generation: ...

class Generation:
    text: str
    token_ids: list[int]
    verdict: Verdict | None
    score: float | None
    threshold: float | None
    reason: str | None
    finish: str
    prompt_tokens: int
    cached_tokens: int
    seed: int | None
    prefill: timedelta
    decode: timedelta
    def __init__(self, *, text: str, token_ids: list[int], verdict: Verdict | None, score: float | None, threshold: float | None, reason: str | None, finish: str, prompt_tokens: int, cached_tokens: int, seed: int | None, prefill: timedelta, decode: timedelta) -> None: ...

class MargayError(Exception):
    detail: str
    class Library(MargayError):
        detail: str
        partial_text: str | None
        def __init__(self, detail: str, partial_text: str | None) -> None: ...
    class Io(MargayError):
        detail: str
        partial_text: str | None
        def __init__(self, detail: str, partial_text: str | None) -> None: ...
    class Bundle(MargayError):
        detail: str
        partial_text: str | None
        def __init__(self, detail: str, partial_text: str | None) -> None: ...
    class Digest(MargayError):
        detail: str
        partial_text: str | None
        def __init__(self, detail: str, partial_text: str | None) -> None: ...
    class Signature(MargayError):
        detail: str
        partial_text: str | None
        def __init__(self, detail: str, partial_text: str | None) -> None: ...
    class InvalidRequest(MargayError):
        detail: str
        partial_text: str | None
        def __init__(self, detail: str, partial_text: str | None) -> None: ...
    class ContextOverflow(MargayError):
        detail: str
        partial_text: str | None
        def __init__(self, detail: str, partial_text: str | None) -> None: ...
    class Inference(MargayError):
        detail: str
        partial_text: str | None
        def __init__(self, detail: str, partial_text: str | None) -> None: ...
    class Deadline(MargayError):
        detail: str
        partial_text: str | None
        def __init__(self, detail: str, partial_text: str | None) -> None: ...
    class Cancelled(MargayError):
        detail: str
        partial_text: str | None
        def __init__(self, detail: str, partial_text: str | None) -> None: ...
    class Connect(MargayError):
        detail: str
        partial_text: str | None
        def __init__(self, detail: str, partial_text: str | None) -> None: ...
    class Tls(MargayError):
        detail: str
        partial_text: str | None
        def __init__(self, detail: str, partial_text: str | None) -> None: ...
    class Unauthorized(MargayError):
        detail: str
        partial_text: str | None
        def __init__(self, detail: str, partial_text: str | None) -> None: ...
    class Rejected(MargayError):
        detail: str
        partial_text: str | None
        def __init__(self, detail: str, partial_text: str | None) -> None: ...
    class RateLimited(MargayError):
        detail: str
        partial_text: str | None
        def __init__(self, detail: str, partial_text: str | None) -> None: ...
    class Server(MargayError):
        detail: str
        partial_text: str | None
        def __init__(self, detail: str, partial_text: str | None) -> None: ...
    class Malformed(MargayError):
        detail: str
        partial_text: str | None
        def __init__(self, detail: str, partial_text: str | None) -> None: ...
    class Truncated(MargayError):
        detail: str
        partial_text: str | None
        def __init__(self, detail: str, partial_text: str | None) -> None: ...
    class Budget(MargayError):
        detail: str
        partial_text: str | None
        def __init__(self, detail: str, partial_text: str | None) -> None: ...
    class QueueFull(MargayError):
        detail: str
        partial_text: str | None
        def __init__(self, detail: str, partial_text: str | None) -> None: ...
    class Memory(MargayError):
        detail: str
        partial_text: str | None
        def __init__(self, detail: str, partial_text: str | None) -> None: ...
    class Provider(MargayError):
        detail: str
        partial_text: str | None
        def __init__(self, detail: str, partial_text: str | None) -> None: ...
    class Configuration(MargayError):
        detail: str
        partial_text: str | None
        def __init__(self, detail: str, partial_text: str | None) -> None: ...
    class Store(MargayError):
        detail: str
        partial_text: str | None
        def __init__(self, detail: str, partial_text: str | None) -> None: ...
    class Unknown(MargayError):
        detail: str
        partial_text: str | None
        def __init__(self, detail: str, partial_text: str | None) -> None: ...

class Message:
    role: str
    content: str
    def __init__(self, *, role: str, content: str) -> None: ...

class Normalise(enum.Enum):
    NOT = 0
    TOKENS = 1
    BYTES = 2

class OnCloudFailure(enum.Enum):
    FALL_BACK_TO_LOCAL = 0
    ABSTAIN = 1
    FAIL = 2

class Origin(enum.Enum):
    LOCAL = 0
    CLOUD = 1
    QUEUED = 2
    ABSTAINED = 3
    UNKNOWN = 4

class ProviderPolicy(enum.Enum):
    REQUIRE = 0
    PREFER = 1
    AUTO = 2

class Redaction:
    label: str
    part: str
    def __init__(self, *, label: str, part: str) -> None: ...

class Redactor:
    def redact(self, text: str) -> list[Redaction]: ...

class Request:
    messages: list[Message]
    task: str | None
    max_tokens: int
    deadline: timedelta | None
    sampling: Sampling | None
    stop: list[str]
    slide_keep: int | None
    raw_prompt: bool
    transient: bool
    budget_class: str | None
    idempotency_key: str | None
    json_schema: str | None
    regex: str | None
    cancel: Cancel | None
    def __init__(self, *, messages: list[Message], task: str | None = ..., max_tokens: int = ..., deadline: timedelta | None = ..., sampling: Sampling | None = ..., stop: list[str] = ..., slide_keep: int | None = ..., raw_prompt: bool = ..., transient: bool = ..., budget_class: str | None = ..., idempotency_key: str | None = ..., json_schema: str | None = ..., regex: str | None = ..., cancel: Cancel | None = ...) -> None: ...

class Sampling:
    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float
    seed: int | None
    def __init__(self, *, temperature: float = ..., top_k: int | None = ..., top_p: float | None = ..., min_p: float | None = ..., repetition_penalty: float = ..., seed: int | None = ...) -> None: ...

class ScoredAnswer:
    log_likelihood: float
    score: float
    probability: float
    def __init__(self, *, log_likelihood: float, score: float, probability: float) -> None: ...

class StreamEvent:
    class TOKEN(StreamEvent):
        text: str
        origin: Origin
        def __init__(self, text: str, origin: Origin) -> None: ...
    class SUPERSEDED(StreamEvent):
        reason: str | None
        def __init__(self, reason: str | None) -> None: ...
    class DONE(StreamEvent):
        answer: Answer
        def __init__(self, answer: Answer) -> None: ...

class StreamMode(enum.Enum):
    HOLD = 0
    OPTIMISTIC = 1

class Token:
    id: int
    text: str
    log_probability: float
    margin: float
    entropy: float
    is_stop: bool
    def __init__(self, *, id: int, text: str, log_probability: float, margin: float, entropy: float, is_stop: bool) -> None: ...

class TokenListener:
    def on_token(self, token: Token) -> bool: ...

class TokenProvider:
    def token(self, renewed: bool) -> str: ...

class Tokens:
    input: int
    output: int
    def __init__(self, *, input: int, output: int) -> None: ...

class Verdict(enum.Enum):
    KEEP = 0
    DEFER = 1
    ABSTAIN = 2

def version() -> str: ...
