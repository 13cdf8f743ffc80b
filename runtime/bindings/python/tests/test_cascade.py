"""The device before the cloud: sure, unsure, streamed, cut, failing, cancelled."""

import asyncio
import os
import threading
from pathlib import Path

import margay
import pytest
from conftest import QUESTION, Names, Tokens, options, request
from margay import OnCloudFailure, Origin, StreamEvent, StreamMode


def cascade(engine, server, tokens=None, names=None, then=OnCloudFailure.FAIL):
    cloud = margay.Cloud(options(server), tokens or Tokens(), names or Names())
    return margay.Cascade(engine, cloud, margay.CascadeOptions(on_cloud_failure=then))


def standing(events):
    text = ""
    for event in events:
        if isinstance(event, StreamEvent.SUPERSEDED):
            text = ""
        elif isinstance(event, StreamEvent.TOKEN):
            text += event.text
    return text


def test_a_sure_device_answers_alone(engine, bundle, expected, tokens):
    answer = cascade(engine, "refuses-then-says", tokens).answer_blocking(request("keep"))
    assert (answer.text, answer.origin, answer.reason, answer.cloud_error) == (expected, Origin.LOCAL, None, None)
    assert answer.score >= answer.threshold and answer.rule == "chow-average"
    assert answer.local_tokens.output == 12 and answer.cloud_tokens is None
    assert answer.model_digest == bundle.model_digest() and tokens.renewed == []


def test_a_local_question_reaches_no_cloud(engine, expected, tokens):
    both = cascade(engine, "refuses-then-says", tokens, then=OnCloudFailure.FALL_BACK_TO_LOCAL)
    answer = both.answer_local_blocking(request())
    assert (answer.text, answer.origin, answer.reason) == (expected, Origin.LOCAL, "local-only")
    assert asyncio.run(both.answer_local(request())).text == expected and tokens.renewed == []


def test_an_unsure_device_asks_without_names_and_with_a_new_token(engine, tokens):
    answer = asyncio.run(cascade(engine, "refuses-then-says", tokens).answer(request()))
    assert (answer.text, answer.origin) == ("hello Ada Lovelace, ada@example.com", Origin.CLOUD)
    assert (answer.reason, answer.finish_reason, answer.attempts) == ("early-low-confidence", "stop", 2)
    assert answer.cloud_tokens == margay.Tokens(input=3, output=2)
    assert tokens.renewed == [False, True]


def test_a_file_says_it_all(engine, plain, tmp_path):
    path = Path(os.environ["MARGAY_CONFIGURATION"])
    answer = margay.Cascade.configured(engine, str(path)).answer_blocking(request())
    assert (answer.text, answer.origin) == ("as the file says", Origin.CLOUD)
    for name, text, said in [
        ("wrong.toml", path.read_text() + "[budgets]\n", "budgets"),
        ("waits.toml", path.read_text() + '[outbox]\nfile = "outbox.redb"\n', "outbox"),
    ]:
        (tmp_path / name).write_text(text)
        with pytest.raises(margay.MargayError, match=said):
            margay.Cascade.configured(engine, str(tmp_path / name))
    without = margay.Engine.load(margay.Bundle.open(plain), margay.DeviceOptions(threads=1))
    with pytest.raises(margay.MargayError, match="no policy"):
        margay.Cascade.configured(without, str(path))


def test_a_redactor_that_fails_lets_nothing_out(engine):
    answer = cascade(engine, "says-what-was-redacted", names=Names(fails=True)).answer_blocking(request())
    assert answer.text == QUESTION


def test_it_streams_takes_back_and_goes_on_from_the_cloud(engine):
    events = list(cascade(engine, "streams").stream_blocking(request("late"), StreamMode.OPTIMISTIC))
    origins = [event.origin for event in events if isinstance(event, StreamEvent.TOKEN)]
    assert origins[0] == Origin.LOCAL and origins[-3:] == [Origin.CLOUD] * 3
    assert [event.reason for event in events if isinstance(event, StreamEvent.SUPERSEDED)] == ["low-confidence"]
    assert isinstance(events[-1], StreamEvent.DONE)
    assert standing(events) == events[-1].answer.text == "book a flight"


def test_it_streams_without_waiting_threads(engine):
    async def main():
        stream = cascade(engine, "streams").stream(request(), StreamMode.HOLD)
        return [event async for event in stream]

    events = asyncio.run(main())
    assert [type(event) for event in events] == [StreamEvent.TOKEN] * 3 + [StreamEvent.DONE]
    assert standing(events) == "book a flight"


def test_a_stream_that_is_let_go_of_frees_the_engine(engine, expected):
    both = cascade(engine, "streams")
    with both.stream_blocking(request("late"), StreamMode.OPTIMISTIC) as stream:
        assert isinstance(stream.next(), StreamEvent.TOKEN)
    assert stream.next() is None
    assert engine.generate_blocking(request("keep")).text == expected


def test_a_cut_stream_has_what_came(engine):
    with pytest.raises((margay.MargayError.Truncated, margay.MargayError.Connect)) as caught:
        list(cascade(engine, "is-cut").stream_blocking(request(), StreamMode.HOLD))
    assert caught.value.partial_text == "book "


def test_a_failing_cloud_is_an_error_or_beside_the_devices_answer(engine, expected):
    with pytest.raises(margay.MargayError.Server):
        cascade(engine, "fails").answer_blocking(request())
    answer = cascade(engine, "fails", then=OnCloudFailure.FALL_BACK_TO_LOCAL).answer_blocking(request())
    assert (answer.text, answer.origin) == (expected, Origin.LOCAL)
    assert isinstance(answer.cloud_error, margay.MargayError.Server)
    answer = cascade(engine, "fails", then=OnCloudFailure.ABSTAIN).answer_blocking(request())
    assert (answer.text, answer.origin) == ("", Origin.ABSTAINED)


def test_without_a_token_nothing_is_asked(engine):
    with pytest.raises(margay.MargayError.Unauthorized) as caught:
        cascade(engine, "streams", Tokens(fails=True)).answer_blocking(request())
    assert "the key store is locked" in caught.value.detail


class Announcing(Tokens):
    """Says when it is asked: the exchange is about to begin."""

    def __init__(self, asked) -> None:
        super().__init__()
        self.asked = asked

    def token(self, renewed: bool) -> str:
        self.asked()
        return super().token(renewed)


def test_another_thread_cancels_a_silent_cloud(engine):
    cancel, asked = margay.Cancel(), threading.Event()
    thread = threading.Thread(target=lambda: (asked.wait(), cancel.cancel()))
    thread.start()
    with pytest.raises(margay.MargayError.Cancelled):
        cascade(engine, "is-silent", Announcing(asked.set)).answer_blocking(request(cancel=cancel))
    thread.join()


def test_a_task_that_is_cancelled_leaves_a_silent_cloud(engine, expected):
    async def main():
        loop, asked = asyncio.get_running_loop(), asyncio.Event()
        both = cascade(engine, "is-silent", Announcing(lambda: loop.call_soon_threadsafe(asked.set)))
        task = asyncio.create_task(both.answer(request()))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await both.answer(request("keep"))).text == expected

    asyncio.run(main())


def test_many_ask_at_once(engine, expected):
    async def main():
        both = cascade(engine, "fails", then=OnCloudFailure.FALL_BACK_TO_LOCAL)
        answers = await asyncio.gather(*(both.answer(request("keep")) for _ in range(16)))
        assert {answer.text for answer in answers} == {expected}

    asyncio.run(main())


def test_what_is_wrong_is_said(engine, plain):
    with pytest.raises(margay.MargayError.InvalidRequest):
        margay.Cloud(margay.CloudOptions(endpoint="http://127.0.0.1/v1", model="large"))
    with pytest.raises(margay.MargayError.Tls):
        margay.Cloud(margay.CloudOptions(endpoint="https://127.0.0.1/v1", model="large", roots_pem="none"))
    without = margay.Engine.load(margay.Bundle.open(plain), margay.DeviceOptions(threads=1))
    with pytest.raises(margay.MargayError.InvalidRequest) as caught:
        cascade(without, "fails")
    assert "no policy" in caught.value.detail
