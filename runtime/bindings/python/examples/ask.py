"""Asks a bundle on this device, and a large model when the device is unsure:

    python ask.py small.bundle https://llm.example.com/v1 large "wake me at six"     (CLOUD_TOKEN holds the key)
"""

import asyncio
import os
import sys

from margay import Bundle, Cascade, Cloud, CloudOptions, Engine, Message, Request, StreamEvent, StreamMode, TokenProvider


class Environment(TokenProvider):
    def token(self, renewed: bool) -> str:
        return os.environ["CLOUD_TOKEN"]


async def main(bundle: str, endpoint: str, model: str, question: str) -> None:
    engine = Engine.load(Bundle.open(bundle))
    large = CloudOptions(endpoint=endpoint, model=model, redact_patterns=True, platform_roots=True)
    cascade = Cascade(engine, Cloud(large, token_provider=Environment()))
    request = Request(messages=[Message(role="user", content=question)])
    async for event in cascade.stream(request, StreamMode.OPTIMISTIC):
        match event:
            case StreamEvent.TOKEN(text=text):
                print(text, end="", flush=True)
            case StreamEvent.SUPERSEDED():
                print(" ... no, wait:")
            case StreamEvent.DONE(answer=answer):
                sure = answer.reason or "sure enough"
                print(f"\n[{answer.origin.name.lower()}: score {answer.score:.2f}, threshold {answer.threshold:.2f}, {sure}]")


asyncio.run(main(*sys.argv[1:]))
