"""The device alone: generate, choose, stop."""

import asyncio
import datetime
import os
import threading

import margay
import pytest
from conftest import request

# The key of RFC 8032's first test, with which nobody has signed the toy.
STRANGER = "ed25519:d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"


class Listener(margay.TokenListener):
    """Joins what it hears, and does `then` after each token."""

    def __init__(self, then=lambda heard: True) -> None:
        self.tokens: list[margay.Token] = []
        self.then = then

    def on_token(self, token: margay.Token) -> bool:
        self.tokens.append(token)
        return self.then(self)

    @property
    def text(self) -> str:
        return "".join(token.text for token in self.tokens)


def test_a_bundle_says_what_it_is(bundle, plain):
    assert (bundle.name(), bundle.context_length(), bundle.has_policy(), bundle.signers()) == ("toy", 640, True, [])
    assert len(bundle.model_digest()) >= 64
    assert not margay.Bundle.open(plain).has_policy()
    assert margay.version().count(".") == 2


def test_it_generates_and_tells_each_token(engine, expected):
    listener = Listener()
    generation = engine.generate_blocking(request("keep"), listener)
    assert generation.text == listener.text == expected
    assert (generation.verdict, generation.finish) == (margay.Verdict.KEEP, "length")
    assert len(generation.token_ids) == len(listener.tokens) == 12
    assert all(token.log_probability <= 0 <= token.entropy for token in listener.tokens)
    assert asyncio.run(engine.generate(request("keep"))).text == expected


def test_an_unsure_answer_is_stopped_early(engine):
    generation = engine.generate_blocking(request())
    assert (generation.verdict, generation.finish) == (margay.Verdict.DEFER, "early-deferral")
    assert generation.reason == "early-low-confidence" and generation.score < generation.threshold


def test_a_seed_draws_the_same_again(engine):
    sampling = margay.Sampling(temperature=1.0, top_k=20, seed=7)
    first, second = (engine.generate_blocking(request("keep", sampling=sampling)) for _ in range(2))
    assert first.text == second.text and first.seed == 7


def test_a_schema_binds(engine):
    bound = request("keep", json_schema='{"enum": [7]}')
    if os.environ.get("MARGAY_CONSTRAINED"):
        assert engine.generate_blocking(bound).text == "7"
        assert engine.generate_blocking(request("keep", regex="(yes|no)")).text in ("yes", "no")
    else:
        with pytest.raises(margay.MargayError.InvalidRequest):
            engine.generate_blocking(bound)
    for wrong in ({"json_schema": "{"}, {"json_schema": "true", "regex": "."}):
        with pytest.raises(margay.MargayError.InvalidRequest):
            engine.generate_blocking(request("keep", **wrong))


def test_a_listener_ends_the_answer_by_word_or_by_failing(engine):
    ended = engine.generate_blocking(request("keep"), Listener(lambda heard: len(heard.tokens) < 2))
    assert (ended.finish, len(ended.token_ids)) == ("caller", 2)
    failed = engine.generate_blocking(request("keep"), Listener(lambda heard: 1 / 0))
    assert (failed.finish, len(failed.token_ids)) == ("caller", 1)


def test_a_listener_that_asks_is_refused_instead_of_waiting_for_itself(engine):
    refused = []

    def ask(heard):
        with pytest.raises(margay.MargayError.InvalidRequest) as caught:
            engine.generate_blocking(request("keep"))
        refused.append(caught.value.detail)
        return False

    engine.generate_blocking(request("keep"), Listener(ask))
    assert refused == ["a listener must not ask a model: it would wait for itself"]


def test_it_chooses(engine):
    answers = ["alarm", "weather", "music"]
    choice = engine.choose_blocking(request(), answers)
    likelihoods = [answer.log_likelihood for answer in choice.answers]
    assert likelihoods.index(max(likelihoods)) == choice.best
    assert sum(answer.probability for answer in choice.answers) == pytest.approx(1)
    by_bytes = asyncio.run(engine.choose(request(), answers, margay.Normalise.BYTES))
    for answer, given in zip(by_bytes.answers, answers, strict=True):
        assert answer.score == pytest.approx(answer.log_likelihood / len(given))
    with pytest.raises(margay.MargayError.InvalidRequest):
        engine.choose_blocking(request(), [])


def test_another_thread_cancels(engine):
    cancel, reached, cancelled = margay.Cancel(), threading.Event(), threading.Event()

    def stop():
        reached.wait()
        cancel.cancel()
        cancelled.set()

    def wait(heard):
        reached.set()
        return cancelled.wait()

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(margay.MargayError.Cancelled):
        engine.generate_blocking(request("keep", cancel=cancel), Listener(wait))
    thread.join()
    assert cancel.is_cancelled()


def test_a_task_that_is_cancelled_stops_its_query(engine, expected):
    async def main():
        loop, begun = asyncio.get_running_loop(), asyncio.Event()
        go_on = threading.Event()

        def wait(heard):
            loop.call_soon_threadsafe(begun.set)
            return go_on.wait()

        listener = Listener(wait)
        task = asyncio.create_task(engine.generate(request("keep"), listener))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()
        # The engine is free again, long before all tokens of the first answer.
        assert (await engine.generate(request("keep"))).text == expected
        assert len(listener.tokens) < 12

    asyncio.run(main())


def test_a_deadline_ends_a_query(engine):
    hurried = request("keep", deadline=datetime.timedelta(microseconds=1))
    with pytest.raises(margay.MargayError.Deadline):
        engine.generate_blocking(hurried)


def test_what_is_wrong_is_said(engine, bundle, plain, tmp_path):
    with pytest.raises(margay.MargayError.Io) as caught:
        margay.Bundle.open(str(tmp_path / "none"))
    assert "none" in caught.value.detail and str(caught.value) == caught.value.detail
    with pytest.raises(margay.MargayError.Signature):
        margay.Bundle.open(plain, margay.BundleOptions(trusted_keys=[STRANGER], require_signature=True))
    with pytest.raises(margay.MargayError.Memory):
        margay.Engine.load(bundle, margay.DeviceOptions(memory_cap=1))
    with pytest.raises(margay.MargayError.InvalidRequest):
        margay.Engine.load(bundle, margay.DeviceOptions(providers=["abacus"]))
    with pytest.raises(margay.MargayError.InvalidRequest):
        engine.generate_blocking(request("keep", sampling=margay.Sampling(temperature=-1.0)))
    with pytest.raises(margay.MargayError.ContextOverflow):
        engine.generate_blocking(margay.Request(messages=request().messages, max_tokens=100_000))


@pytest.mark.parametrize("wrong", ["caf\udce9", 7, None, b"bytes"])
def test_what_is_no_text_is_refused_before_it_is_sent(wrong):
    with pytest.raises((TypeError, UnicodeEncodeError)):
        margay.Bundle.open(wrong)


@pytest.mark.parametrize("wrong", [-1, 1 << 32, "many"])
def test_what_is_no_count_is_refused(engine, wrong):
    with pytest.raises((TypeError, ValueError, OverflowError)):
        engine.generate_blocking(margay.Request(messages=request().messages, max_tokens=wrong))
