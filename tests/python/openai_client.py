"""OpenAI's own Python client against `margay serve`: one list of what it must be able to do.

    openai_client.py BASE_URL MODEL WHO [TOKEN]

WHO is `device` (a small model alone) or `cloud` (a cascade that defers everything to a server that says "from the cloud").
"""

import json
import sys

import openai
from openai import OpenAI

base_url, model, who, *token = sys.argv[1:]
client = OpenAI(base_url=base_url, api_key=token[0] if token else "unused", max_retries=0, timeout=60)
hello = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]
checked = []


def check(name):
    def run(test):
        test()
        checked.append(name)

    return run


def refused(kind, call, **facts):
    try:
        call()
    except kind as error:
        for fact, value in facts.items():
            assert getattr(error, fact) == value, (fact, getattr(error, fact), value, error)
        return
    raise AssertionError(f"{kind.__name__} expected")


def text_of(chunks):
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def ask(**more):
    return client.chat.completions.create(model=model, messages=hello, max_tokens=12, **more)


@check("models are listed, and one is shown")
def _():
    assert [entry.id for entry in client.models.list()] == [model]
    assert client.models.retrieve(model).owned_by == "margay"
    refused(openai.NotFoundError, lambda: client.models.retrieve("other"), code="model_not_found")


@check("a whole answer has text, usage and the account of who gave it")
def _():
    answer = ask()
    choice = answer.choices[0]
    assert choice.message.role == "assistant" and choice.message.content
    assert choice.finish_reason in ("stop", "length")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    account = answer.model_extra["margay"]
    assert account["origin"] == ("local" if who == "device" else "cloud"), account
    if who == "cloud":
        assert choice.message.content == "from the cloud" and account["reason"] == "early-low-confidence", answer
        assert account["score"] < account["threshold"]


@check("headers say who answered and why")
def _():
    raw = client.chat.completions.with_raw_response.create(model=model, messages=hello, max_tokens=4)
    assert raw.headers["x-margay-origin"] == ("local" if who == "device" else "cloud")
    assert ("x-margay-reason" in raw.headers) == (who == "cloud")


@check("a streamed answer is the whole one in pieces")
def _():
    chunks = list(ask(stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert text_of(chunks) == ask().choices[0].message.content
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")
    assert chunks[-1].model_extra["margay"]["origin"] == ("local" if who == "device" else "cloud")
    assert len({chunk.id for chunk in chunks}) == 1


@check("usage comes with the last chunk if it was asked for")
def _():
    chunks = list(ask(stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == [] and chunks[-1].usage.total_tokens > 0
    assert all(chunk.usage is None for chunk in chunks[:-1])


@check("content in parts is one text")
def _():
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    whole = client.chat.completions.create(model=model, messages=[{"role": "user", "content": "hello"}], max_tokens=5)
    split = client.chat.completions.create(model=model, messages=[{"role": "user", "content": parts}], max_tokens=5)
    assert whole.choices[0].message.content == split.choices[0].message.content


@check("several answers, other models, and nonsense are refused with the right exceptions")
def _():
    refused(openai.BadRequestError, lambda: ask(n=2), param="n", code="unsupported_parameter")
    refused(openai.BadRequestError, lambda: ask(presence_penalty=1.0), param="presence_penalty")
    refused(openai.BadRequestError, lambda: ask(extra_body={"temperature": "hot"}), type="invalid_request_error")
    refused(
        openai.NotFoundError,
        lambda: client.chat.completions.create(model="other", messages=hello),
        code="model_not_found",
    )
    refused(
        openai.BadRequestError,
        lambda: client.chat.completions.create(model=model, messages=hello, max_tokens=10**6),
        code="context_length_exceeded",
    )
    refused(openai.BadRequestError, lambda: client.chat.completions.create(model=model, messages=[]))


if token:

    @check("a wrong token is refused")
    def _():
        stranger = OpenAI(base_url=base_url, api_key="wrong", max_retries=0)
        refused(openai.AuthenticationError, lambda: stranger.models.list(), code="invalid_api_key")


@check("a broken-off stream does no harm")
def _():
    stream = ask(stream=True)
    next(iter(stream))
    stream.close()
    assert ask().choices[0].message.content


if who == "device":

    @check("log-probabilities of each token, with the likeliest in its place")
    def _():
        answer = ask(logprobs=True, top_logprobs=3)
        tokens = answer.choices[0].logprobs.content
        assert len(tokens) == answer.usage.completion_tokens
        for token in tokens:
            assert token.logprob <= 0 and len(token.top_logprobs) == 3
            assert token.top_logprobs[0].token == token.token and token.top_logprobs[0].logprob == token.logprob
            assert [top.logprob for top in token.top_logprobs] == sorted((t.logprob for t in token.top_logprobs), reverse=True)
            assert token.bytes is None or bytes(token.bytes).decode() == token.token
        chunks = list(ask(logprobs=True, top_logprobs=3, stream=True))
        streamed = [token for c in chunks if c.choices and c.choices[0].logprobs for token in c.choices[0].logprobs.content]
        assert streamed == tokens

    @check("a stop string ends the answer, itself not in it")
    def _():
        text = ask().choices[0].message.content
        stop = text[len(text) // 2 :][:2]
        answer = ask(stop=[stop])
        assert answer.choices[0].message.content == text[: text.index(stop)] and answer.choices[0].finish_reason == "stop"
        assert text_of(ask(stop=stop, stream=True)) == text[: text.index(stop)]

    @check("max_completion_tokens is the newer name of max_tokens")
    def _():
        answer = client.chat.completions.create(model=model, messages=hello, max_completion_tokens=3)
        assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (3, "length")

    @check("a seed gives the same answer again, another seed another")
    def _():
        drawn = lambda seed: ask(temperature=1.5, top_p=0.95, seed=seed).choices[0].message.content
        assert drawn(7) == drawn(7) == drawn(7)
        assert len({drawn(seed) for seed in range(6)}) > 1

    @check("an answer is JSON of the schema that was asked for, fields in its order, drawn or not, whole or streamed")
    def _():
        properties = {
            "wild": {"type": "boolean"},
            "cat": {"enum": ["margay", "ocelot"]},
            "age": {"type": "integer", "minimum": 1, "maximum": 12},
        }
        schema = {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }
        wanted = {"type": "json_schema", "json_schema": {"name": "cat", "strict": True, "schema": schema}}

        def obeys(text):
            value = json.loads(text)
            assert list(value) == list(properties), text
            assert value["cat"] in ("margay", "ocelot") and isinstance(value["wild"], bool) and 1 <= value["age"] <= 12

        for seed in range(4):
            drawn = dict(temperature=1.5, seed=seed, response_format=wanted)
            answer = client.chat.completions.create(model=model, messages=hello, max_tokens=200, **drawn)
            obeys(answer.choices[0].message.content)
            assert answer.choices[0].finish_reason == "stop"
        greedy = dict(model=model, messages=hello, max_tokens=200, response_format=wanted)
        obeys(text_of(client.chat.completions.create(stream=True, **greedy)))
        json_object = {"type": "json_object"}
        any_object = client.chat.completions.create(model=model, messages=hello, max_tokens=400, response_format=json_object)
        if any_object.choices[0].finish_reason == "stop":
            assert isinstance(json.loads(any_object.choices[0].message.content), dict)
        nonsense = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "cat"}}}
        refused(openai.BadRequestError, lambda: ask(response_format=nonsense))

    @check("functions are refused where no model knows of them")
    def _():
        tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
        refused(openai.BadRequestError, lambda: ask(tools=tools), param="tools", code="unsupported_parameter")

    @check("a raw text is gone on with")
    def _():
        answer = client.completions.create(model=model, prompt="hello", max_tokens=6, logprobs=2)
        logprobs = answer.choices[0].logprobs
        assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.text_offset) == 6
        # Pieces of characters share a text.
        assert all(1 <= len(top) <= 2 for top in logprobs.top_logprobs)
        streamed = client.completions.create(model=model, prompt="hello", max_tokens=6, stream=True)
        assert "".join(chunk.choices[0].text for chunk in streamed) == answer.choices[0].text

    @check("a prompt is scored by echo")
    def _():
        scored = client.completions.create(model=model, prompt="hello", max_tokens=0, echo=True, logprobs=0)
        logprobs = scored.choices[0].logprobs
        assert scored.choices[0].text == "hello" and "".join(logprobs.tokens) == "hello"
        assert logprobs.token_logprobs[0] is None and all(p <= 0 for p in logprobs.token_logprobs[1:])
        assert (scored.usage.prompt_tokens, scored.usage.completion_tokens) == (len(logprobs.tokens), 0)
        both = client.completions.create(model=model, prompt="hello", max_tokens=3, echo=True, logprobs=0)
        assert both.choices[0].logprobs.token_logprobs[: len(logprobs.tokens)] == logprobs.token_logprobs
        assert both.choices[0].text.startswith("hello") and len(both.choices[0].logprobs.tokens) == len(logprobs.tokens) + 3

    @check("one deadline")
    def _():
        late = lambda: ask(extra_body={"margay": {"deadline_ms": 0}})
        refused(openai.InternalServerError, late, status_code=504, code="timeout")


if who == "cloud":

    @check("functions go to the large model")
    def _():
        tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
        asked = [{"role": "user", "content": "call weather"}]
        answer = client.chat.completions.create(model=model, messages=asked, tools=tools)
        call = answer.choices[0].message.tool_calls[0]
        assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Lima"})
        assert answer.choices[0].finish_reason == "tool_calls" and answer.model_extra["margay"]["reason"] == "tools"
        chunks = list(client.chat.completions.create(model=model, messages=asked, tools=tools, stream=True))
        calls = [call for c in chunks if c.choices for call in c.choices[0].delta.tool_calls or []]
        assert [(c.index, c.function.name, json.loads(c.function.arguments)) for c in calls] == [(0, "weather", {"city": "Lima"})]
        assert chunks[-1].choices[0].finish_reason == "tool_calls"

    @check("what must not leave the device does not")
    def _():
        answer = ask(extra_body={"margay": {"local_only": True}})
        account = answer.model_extra["margay"]
        assert (account["origin"], account["reason"]) == ("local", "local-only"), account
        assert answer.choices[0].message.content and account["usage"]["cloud"] is None

    @check("an optimistic stream takes back what does not stand")
    def _():
        chunks = list(ask(stream=True, extra_body={"margay": {"stream": "optimistic"}}))
        taken_back = [i for i, c in enumerate(chunks) if "superseded" in (c.model_extra.get("margay") or {})]
        assert len(taken_back) == 1
        assert text_of(chunks[taken_back[0] + 1 :]) == "from the cloud"

    @check("a raw text stays on the device")
    def _():
        answer = client.completions.create(model=model, prompt="hello", max_tokens=6)
        assert answer.model_extra["margay"]["origin"] == "local" and answer.choices[0].text


print(json.dumps(checked))
