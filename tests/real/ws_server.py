"""A real WebSocket server: echoes every message, and says who calls when asked "who"."""

import asyncio
import sys

import websockets


async def serve(socket, path=None):
    async for message in socket:
        if message == "who":
            await socket.send("tenant " + ",".join(socket.request_headers.get_all("X-Tenant-ID")))
        else:
            await socket.send(message)


async def main():
    settings = {"max_size": None, "subprotocols": ["chat"], "ping_interval": None}
    async with websockets.serve(serve, "127.0.0.1", int(sys.argv[1]), **settings):
        await asyncio.Future()


asyncio.run(main())
