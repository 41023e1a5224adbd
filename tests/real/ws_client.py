"""A real WebSocket client: ws_client.py URL CA KEY tries all that a client does, then waits to be closed, and says what it sees."""

import asyncio
import os
import ssl
import sys

import websockets

URL, AUTHORITY, KEY = sys.argv[1:]


def connect(**more):
    context = ssl.create_default_context(cafile=AUTHORITY)
    headers = {"Authorization": "Bearer " + KEY}
    settings = {"max_size": None, "ping_interval": None, "open_timeout": 60, "close_timeout": 60}
    return websockets.connect(URL, ssl=context, extra_headers=headers, **settings, **more)


async def both_ways(socket, messages):
    async def send():
        for message in messages:
            await socket.send(message)

    sending = asyncio.create_task(send())
    for message in messages:
        assert await socket.recv() == message, "an echo differs"
    await sending


async def battery(compression):
    async with connect(compression=compression, subprotocols=["chat"]) as socket:
        assert socket.subprotocol == "chat"
        await both_ways(socket, ["a"] * 500 + ["", "ä€😀", b"\x00\xff"])
        await both_ways(socket, [os.urandom(3_000_000), "x" * 1_000_000, os.urandom(65_536)])
        await socket.send(["frag", "men", "", "ted"])
        assert await socket.recv() == "fragmented"
        await asyncio.wait_for(await socket.ping(b"there?"), 60)
        await socket.close(4321, "enough")
    assert socket.close_code == 4321, socket.close_code


async def main():
    async with connect() as socket:
        await socket.send("who")
        print(await socket.recv(), flush=True)
    await battery("deflate")
    await battery(None)
    print("battery passed", flush=True)
    async with connect() as socket:
        await socket.send("hello")
        await socket.recv()
        print("waiting", flush=True)
        await socket.wait_closed()
        print("closed", socket.close_code, flush=True)


asyncio.run(main())
