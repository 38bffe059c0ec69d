"""Many pipes over one websocket: the frames of the stream tunnel, for both of its ends (reference 9.4).

Each channel has its own room. Between our own peers a sender knows it (CREDIT), so a reader that stands still holds up
nobody else. KubeEdge's peers send without asking: there the whole line waits for a slow reader, a few seconds at most,
then that reader's channel ends.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from edgeappliance.kernel.errors import TransientError
from edgeappliance.kernel.log import get_logger
from edgeappliance.wire.errors import WireError
from edgeappliance.wire.tunnel import (
    CONNECTS,
    RAW,
    WINDOW,
    Answer,
    ConnectRequest,
    Frame,
    FrameType,
    decode_answer,
    decode_connect,
    decode_credit,
    decode_frame,
    encode_answer,
    encode_connect,
    encode_frame,
    uvarint,
)

CHUNK = 32 * 1024
"""Bytes of one DATA frame of ours. Small enough that a keystroke never waits long behind a log."""

READ_SIZE = 128 * 1024
"""Most bytes that one `read` gives."""

MAX_CHANNELS = 256
"""Channels of one tunnel at a time. At their worst they hold a WINDOW each in both directions."""

UPSTREAM_WINDOW = 1024 * 1024
"""Bytes that wait for a reader at which a KubeEdge peer is no longer listened to."""

STALL = 5.0
"""Seconds for which the others wait for a reader that takes nothing at all."""


class TooManyChannels(TransientError):
    """The tunnel carries as many channels as it may."""


class Line(Protocol):
    """What carries the frames: a `kernel.websocket.WebSocketLine`."""

    @property
    def stuck(self) -> bool: ...

    def send(self, payload: bytes) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def abort(self, reason: str) -> None: ...


class Channel:
    """One pipe in a tunnel: a `kernel.duplex.Duplex`, with the head of the answer where there is one."""

    def __init__(self, tunnel: "Tunnel", id: int, kind: FrameType) -> None:
        loop = asyncio.get_running_loop()
        self.id = id
        self.kind = kind
        self.read_at = loop.time()
        """When something was last taken out."""
        self._tunnel = tunnel
        self._inbox: deque[bytes] = deque()
        self._size = 0
        self._owed = 0
        self._room = WINDOW
        self._credit = WINDOW
        self._readable = asyncio.Event()
        self._sendable = asyncio.Event()
        self._answer: asyncio.Future[Answer | None] = loop.create_future()
        self._ended = False
        self._closed = False
        self._error = ""

    # -- for its user -------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Bytes that came and were not read."""
        return self._size

    @property
    def raw(self) -> bool:
        """Whether it carries an upgraded HTTP connection, head and all."""
        return self.kind in RAW

    @property
    def over(self) -> bool:
        """Whether nothing more will come or go."""
        return self._ended or self._closed or bool(self._error)

    async def answer(self) -> Answer | None:
        """The head of the kubelet's answer; None from a peer that sends none. Raises OSError."""
        answer = await asyncio.shield(self._answer)
        if self._error and not self._size:
            raise ConnectionResetError(self._error)
        return answer

    async def read(self) -> bytes:
        """What has come, at most READ_SIZE bytes; b"" at the end. Raises OSError when the tunnel broke."""
        while not self._inbox:
            if self._error:
                raise ConnectionResetError(self._error)
            if self._ended or self._closed:
                return b""
            self._readable.clear()
            await self._readable.wait()
        taken = [self._inbox.popleft()]
        size = len(taken[0])
        while self._inbox and size + len(self._inbox[0]) <= READ_SIZE:
            size += len(self._inbox[0])
            taken.append(self._inbox.popleft())
        self._size -= size
        self._owed += size
        self.read_at = asyncio.get_running_loop().time()
        if not self.over and self._tunnel.taken(self, self._owed):
            self._room += self._owed
            self._owed = 0
        return taken[0] if len(taken) == 1 else b"".join(taken)

    async def write(self, data: bytes) -> None:
        """Return when all of it is on its way. Raises OSError when the other end or the tunnel is gone."""
        start = 0
        while True:
            self._check()
            if start >= len(data):
                return
            if self._tunnel.ours and self._credit <= 0:
                self._sendable.clear()
                await self._sendable.wait()
                continue
            await self._tunnel.turn()
            if self.over:
                self._tunnel.pass_on()
                continue
            size = min(len(data) - start, CHUNK)
            if self._tunnel.ours:
                size = min(size, self._credit)
            part = data if size == len(data) else data[start : start + size]
            self._credit -= size
            start += size
            self._tunnel.data(self, part)

    def head(self, answer: Answer) -> None:
        """Say the head of the answer, before any data; a KubeEdge peer has no ear for it."""
        if not self.over and self._tunnel.ours:
            self._tunnel.send(Frame(self.id, FrameType.ANSWER, encode_answer(answer)))

    async def close(self) -> None:
        """End it in both directions."""
        self.end()

    def end(self) -> None:
        """As `close`, which need not be waited for."""
        if not self._closed:
            self._closed = True
            self._tunnel.closed(self, said=self._ended)
            self._wake()

    def _check(self) -> None:
        if self._error:
            raise ConnectionResetError(self._error)
        if self._closed or self._ended:
            raise BrokenPipeError("the other end of the stream is gone")

    # -- for the tunnel -----------------------------------------------------------------------------------

    def came(self, data: bytes) -> bool:
        """Data from the peer. Whether it had room for it (always, with a KubeEdge peer)."""
        if self.over or not data:
            return True
        if self._tunnel.ours:
            if len(data) > self._room:
                return False
            self._room -= len(data)
        self._inbox.append(data)
        self._size += len(data)
        self._settle(None)
        self._readable.set()
        return True

    def answered(self, answer: Answer) -> None:
        """The head of the answer came."""
        self._settle(answer)

    def credited(self, size: int) -> None:
        """The peer gives room for more."""
        self._credit = min(self._credit + size, WINDOW)
        self._sendable.set()

    def removed(self) -> None:
        """The peer ended it: what came before is still read."""
        self._ended = True
        self._wake()

    def fail(self, reason: str) -> None:
        """It broke."""
        self._error = self._error or reason
        self._wake()

    def _settle(self, answer: Answer | None) -> None:
        if not self._answer.done():
            self._answer.set_result(answer)

    def _wake(self) -> None:
        self._settle(None)
        self._readable.set()
        self._sendable.set()


Accept = Callable[[Channel, ConnectRequest], None]
"""What the edge does with a channel that the cloud opens."""


class Tunnel:
    """The channels of one line. `ours`: the peer is of this project and knows CREDIT and ANSWER.

    accept: takes what the peer opens; without it (in the cloud) a peer may open nothing.
    """

    def __init__(self, line: Line, *, ours: bool, accept: Accept | None = None, channels: int = MAX_CHANNELS) -> None:
        self.ours = ours
        self._line = line
        self._accept = accept
        self._limit = channels
        self._channels: dict[int, Channel] = {}
        self._next = 1
        self._turns: deque[asyncio.Future[None]] = deque()
        self._granted = False
        self._full: dict[Channel, asyncio.TimerHandle] = {}
        self._lost = ""
        self._troubled = False
        self._log = get_logger("tunnel")

    def __len__(self) -> int:
        return len(self._channels)

    @property
    def waiting(self) -> int:
        """Bytes that wait for readers."""
        return sum(channel.waiting for channel in self._channels.values())

    def open(self, kind: FrameType, request: ConnectRequest) -> Channel:
        """Open a channel. Raises TooManyChannels; ConnectionResetError when the tunnel is gone."""
        if self._lost:
            raise ConnectionResetError(self._lost)
        if len(self._channels) >= self._limit:
            raise TooManyChannels(f"the tunnel carries {self._limit} streams already", next_step="close some of them")
        channel = Channel(self, self._next, kind)
        self._next += 1
        request.MessID = channel.id
        self.send(Frame(channel.id, kind, encode_connect(request)))
        self._channels[channel.id] = channel
        return channel

    # -- the line's listener ------------------------------------------------------------------------------

    def message(self, payload: bytes) -> None:
        """One frame. What cannot be read or has no channel is dropped: the peer may have sent it before it knew."""
        try:
            frame = decode_frame(payload)
            if frame.type in CONNECTS:
                self._opened(frame)
                return
            channel = self._channels.get(frame.connection)
            if frame.type == FrameType.CLOSE_CONNECT and self._accept is not None:
                self._line.abort(f"the cloud closes the tunnel: {frame.data[:200].decode('utf-8', 'replace')}")
            elif channel is not None:
                self._take(channel, frame)
        except WireError as error:
            if not self._troubled:  # once a tunnel: a broken peer must not fill the log
                self._troubled = True
                self._log.warning("unreadable frame", size=len(payload), error=error)

    def writable(self) -> None:
        """The line moves again."""
        self._next_turn()

    def lost(self, reason: str) -> None:
        """The line is gone, and every channel with it."""
        self._lost = reason or "the tunnel is gone"
        for timer in self._full.values():
            timer.cancel()
        self._full.clear()
        for channel in list(self._channels.values()):
            channel.fail(f"the tunnel broke: {self._lost}")
        self._channels.clear()
        while self._turns:
            waiting = self._turns.popleft()
            if not waiting.done():
                waiting.set_result(None)

    def _opened(self, frame: Frame) -> None:
        if self._accept is None:
            raise WireError("a node opens no streams", field="type")
        request = decode_connect(frame.data)
        if frame.connection in self._channels:
            raise WireError(f"connection {frame.connection} is open already", field="connection")
        if len(self._channels) >= self._limit:
            self.send(Frame(frame.connection, FrameType.REMOVE_CONNECT, b""))
            return
        channel = self._channels[frame.connection] = Channel(self, frame.connection, FrameType(frame.type))
        self._accept(channel, request)

    def _take(self, channel: Channel, frame: Frame) -> None:
        if frame.type == FrameType.DATA:
            if not channel.came(frame.data):
                channel.fail("the peer sent more than it was given room for")
                self.closed(channel, said=False)
            elif not self.ours:
                self._hold(channel)
        elif frame.type == FrameType.REMOVE_CONNECT:
            self._forget(channel)
            if self._accept is not None:
                # The edge answers the cloud's (reference 9.4).
                self.send(Frame(channel.id, FrameType.REMOVE_CONNECT, b""))
            channel.removed()
        elif frame.type == FrameType.CREDIT and self.ours:
            channel.credited(decode_credit(frame.data))
        elif frame.type == FrameType.ANSWER and self.ours:
            channel.answered(decode_answer(frame.data))
        else:
            raise WireError(f"unknown frame type {frame.type}", field="type")

    # -- for the channels ---------------------------------------------------------------------------------

    def send(self, frame: Frame) -> None:
        """A small frame, whether the line is stuck or not."""
        self._line.send(encode_frame(frame))

    def data(self, channel: Channel, part: bytes) -> None:
        """Data in its turn."""
        self._granted = False
        self._line.send(encode_frame(Frame(channel.id, FrameType.DATA, part)))
        self._next_turn()

    async def turn(self) -> None:
        """Wait until the line takes more and it is the caller's turn: who has much to say waits behind the others."""
        if self._lost or not (self._line.stuck or self._turns or self._granted):
            return
        mine = asyncio.get_running_loop().create_future()
        self._turns.append(mine)
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():
                self.pass_on()
            raise
        if self._lost:
            raise ConnectionResetError(self._lost)

    def pass_on(self) -> None:
        """A turn that is not used."""
        self._granted = False
        self._next_turn()

    def taken(self, channel: Channel, owed: int) -> bool:
        """A reader took `owed` bytes since the last credit. Whether the peer was told."""
        if self.ours:
            if owed < WINDOW // 4:
                return False
            while owed > 0:
                self.send(Frame(channel.id, FrameType.CREDIT, uvarint(min(owed, WINDOW))))
                owed -= WINDOW
            return True
        if channel in self._full and channel.waiting < UPSTREAM_WINDOW // 2:
            self._release(channel)
        return True

    def closed(self, channel: Channel, *, said: bool) -> None:
        """We end a channel; `said`: the peer has ended it itself."""
        if self._channels.get(channel.id) is channel:
            self._forget(channel)
            if not said:
                self.send(Frame(channel.id, FrameType.REMOVE_CONNECT, b""))

    # -- inside -------------------------------------------------------------------------------------------

    def _forget(self, channel: Channel) -> None:
        self._channels.pop(channel.id, None)
        if channel in self._full:
            self._release(channel)

    def _next_turn(self) -> None:
        while self._turns and not self._line.stuck and not self._granted:
            waiting = self._turns.popleft()
            if not waiting.done():
                waiting.set_result(None)
                self._granted = True  # the next when this one has sent

    def _hold(self, channel: Channel) -> None:
        """Stop listening to a KubeEdge peer while one reader has too much."""
        if channel.waiting > UPSTREAM_WINDOW and channel not in self._full:
            self._full[channel] = asyncio.get_running_loop().call_later(STALL, self._stalled, channel)
            self._line.pause_reading()

    def _stalled(self, channel: Channel) -> None:
        since = asyncio.get_running_loop().time() - channel.read_at
        if since < STALL:  # slow, but alive
            self._full[channel] = asyncio.get_running_loop().call_later(STALL - since, self._stalled, channel)
            return
        self._log.warning("stream ended: its reader takes nothing", connection=channel.id)
        channel.fail("the reader of this stream took nothing while others waited")
        self.closed(channel, said=False)

    def _release(self, channel: Channel) -> None:
        timer = self._full.pop(channel, None)
        if timer is not None:
            timer.cancel()
        if not self._full:
            self._line.resume_reading()
