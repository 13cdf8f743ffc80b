"""What a call from Python costs on top of what it calls: seconds on the clock less those that the engine says it worked.

    ORT_DYLIB_PATH=libonnxruntime.so python bench/overhead.py BUNDLE [CALLS]
"""

import asyncio
import datetime
import statistics
import sys
import time

from margay import Bundle, Cancel, DeviceOptions, Engine, Message, Request


def main(bundle: str, calls: int = 2000) -> None:
    engine = Engine.load(Bundle.open(bundle), DeviceOptions(threads=1))
    request = Request(messages=[Message(role="user", content="wake me at six")], max_tokens=4)
    cancel = Cancel()

    def plain() -> float:
        begun = time.perf_counter()
        cancel.is_cancelled()
        return time.perf_counter() - begun

    def blocking() -> float:
        begun = time.perf_counter()
        generation = engine.generate_blocking(request)
        worked: datetime.timedelta = generation.prefill + generation.decode
        return time.perf_counter() - begun - worked.total_seconds()

    async def awaited() -> float:
        begun = time.perf_counter()
        generation = await engine.generate(request)
        worked = generation.prefill + generation.decode
        return time.perf_counter() - begun - worked.total_seconds()

    async def many() -> list[float]:
        return [await awaited() for _ in range(calls)]

    for name, times in {
        "a method without arguments": [plain() for _ in range(calls)],
        "generate_blocking": [blocking() for _ in range(calls)],
        "await generate": asyncio.run(many()),
    }.items():
        p99 = sorted(times)[int(0.99 * len(times))]
        print(f"{name}: median {1e6 * statistics.median(times):.1f} us, 99th percentile {1e6 * p99:.1f} us")


main(sys.argv[1], *(int(calls) for calls in sys.argv[2:]))
