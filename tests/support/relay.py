"""Between a client and a downstairs: every frame is recorded, and may be changed, withheld or followed by anything.

What a client does on the wire can only be seen here, whatever downstairs is behind it; so can a client be shown
what no real downstairs sends.
"""
import socket
import struct
import threading
import time

from .crucible import NUMBERS, decode, encode
from .downstairs import free_port

UP, DOWN = "up", "down"  # to the downstairs; to the client


class Frame:
    """One that went by."""

    def __init__(self, relay, connection, direction, bytes_):
        self.relay, self.connection, self.direction, self.bytes = relay, connection, direction, bytes_
        self.time = time.monotonic()
        self._message = None

    @property
    def number(self):
        return struct.unpack_from("<I", self.bytes, 4)[0]

    @property
    def message(self):
        if self._message is None:
            self._message = decode(self.bytes[4:])
            if hasattr(self._message, "data"):  # recorded once, and always the last field
                self._message.data = memoryview(self.bytes)[len(self.bytes) - len(self._message.data):]
        return self._message

    def __repr__(self):
        fields = {name: value for name, value in vars(self.message).items()
                  if name not in ("name", "data", "contexts", "upstairs_id", "session_id")}
        return f"{self.connection}{'>' if self.direction == UP else '<'} {self.message.name} {fields}"


class Connection:
    """One of the client's, and the one to the downstairs that belongs to it."""

    def __init__(self, relay, number, client):
        self.relay, self.number, self.client = relay, number, client
        self.downstairs = socket.create_connection(relay.target, 10)
        for end in (self.client, self.downstairs):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.is_open = True
        self.reads = threading.Event()  # cleared: what the client sends is not read
        self.reads.set()

    def start(self):
        for direction, source, sink in ((UP, self.client, self.downstairs), (DOWN, self.downstairs, self.client)):
            threading.Thread(target=self.run, args=(direction, source, sink), daemon=True).start()

    def run(self, direction, source, sink):
        try:
            while True:
                head = self.receive(source, 4)
                frame = Frame(self.relay, self.number, direction,
                              head + self.receive(source, struct.unpack("<I", head)[0] - 4))
                if direction == UP:
                    self.reads.wait()
                out = self.relay.passes(self, frame)
                if out:
                    sink.sendall(out)
        except OSError:
            self.cut()

    @staticmethod
    def receive(source, size):
        data = bytearray()
        while len(data) < size:
            more = source.recv(min(size - len(data), 1 << 20))
            if not more:
                raise OSError("closed")
            data += more
        return bytes(data)

    def cut(self):
        """Both ways, without a word."""
        self.is_open = False
        self.reads.set()
        for end in (self.client, self.downstairs):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def say(self, bytes_):
        """To the client."""
        self.client.sendall(bytes_)


class Relay:
    """Listens, and connects to the downstairs at `target` for each client.

    `hook(connection, frame)` says what becomes of a frame: True to pass it on, bytes instead of it (none: b""). It is
    called by the thread of its direction.
    """

    def __init__(self, target, hook=None, records=False):
        self.target, self.hook, self.records = target, hook, records
        self.frames, self.connections = [], []
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.address = ("127.0.0.1", free_port())
        self.listener.bind(self.address)
        self.listener.listen(16)
        self.refuses = False  # connections are closed at once
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            try:
                if self.refuses:
                    raise OSError
                connection = Connection(self, len(self.connections), client)
            except OSError:
                client.close()
                continue
            self.connections.append(connection)
            connection.start()

    def passes(self, connection, frame):
        out = self.hook(connection, frame) if self.hook else True
        if self.records:
            self.frames.append(frame)
        return frame.bytes if out is True else out

    def cut(self):
        """All connections that are open."""
        for connection in self.connections:
            if connection.is_open:
                connection.cut()

    def close(self):
        self.listener.close()
        self.cut()
        for connection in self.connections:
            connection.client.close()
            connection.downstairs.close()

    # what went by

    def sent(self, *names, connection=None):
        """Frames of these messages from the client; all if none is named."""
        return self._select(UP, names, connection)

    def answered(self, *names, connection=None):
        return self._select(DOWN, names, connection)

    def _select(self, direction, names, connection):
        numbers = {NUMBERS[name] for name in names}
        return [frame for frame in list(self.frames) if frame.direction == direction and
                (not numbers or frame.number in numbers) and connection in (None, frame.connection)]


def change(frame, **fields):
    """The frame with other fields."""
    message = frame.message
    now = {name: value for name, value in vars(message).items() if name != "name"}
    return encode(message.name, **{**now, **fields})


# hooks


def on_nth(name, number, action):
    """`action` decides about the `number`th of these messages on the relay."""
    seen = []

    def hook(connection, frame):
        if frame.message.name != name:
            return True
        seen.append(frame)
        return action(connection, frame) if len(seen) == number else True

    return hook


def cut_there(connection, _frame):
    connection.cut()
    return b""
