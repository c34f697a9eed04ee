"""A chat server in a process of its own, whose models fail, hang or answer as their names say; it counts what it gets."""

import asyncio
import zlib
from collections import Counter

from aiohttp import web

ASKED, ANSWERED = Counter(), Counter()
LATENCY = 0.02  # seconds


async def chat(request):
    body = await request.json()
    model, prompt = body["model"], body["messages"][-1]["content"]
    ASKED[f"{model} {prompt}"] += 1
    if model == "hangs":
        await asyncio.Event().wait()
    await asyncio.sleep(LATENCY)
    if model == "fails" and zlib.crc32(prompt.encode()) % 10 < 3:
        return web.json_response({"error": {"message": "The server had an error.", "code": None}}, status=500)
    ANSWERED[prompt] += 1
    message = {"role": "assistant", "content": f"{model} {prompt}"}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    return web.json_response({"id": "x", "created": 1, "model": model, "choices": choices, "usage": usage})


async def counts(request):
    return web.json_response([ASKED, ANSWERED])


async def serve():
    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    app.router.add_get("/counts", counts)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve())
