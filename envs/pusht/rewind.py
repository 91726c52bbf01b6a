"""A space of pymunk as it was when it was built, in a few microseconds.

Building one again takes twenty times as long, nearly all of it in Python. Here the moving bodies and their
shapes leave the space, which makes Chipmunk drop what it remembers of their contacts. They are set to the
bytes that they had at first and enter again in the same order. Outside a space these bytes hold no pointer
that changes, so nothing is assumed of their layout. The ids by which Chipmunk orders shapes are set back too.
The episodes that follow are equal to those of a new space to the last bit.

Chipmunk's count of steps goes on: it is only ever compared with itself, and if it went back, the buffers of
contacts, which are used again a few steps later, would become more with every short episode.

Not seen and not undone: other callbacks in the handlers that there are, and changes of the static shapes.
"""

from collections.abc import Sequence
from typing import Any

import pymunk
from pymunk import _chipmunk_cffi

_lib, _ffi = _chipmunk_cffi.lib, _chipmunk_cffi.ffi

# Enough for all that a step or a user changes, less than the whole struct.
_BODY_BYTES, _SHAPE_BYTES = 256, 192
_SETTINGS = (
    _lib.cpSpaceGetIterations,
    _lib.cpSpaceGetDamping,
    _lib.cpSpaceGetIdleSpeedThreshold,
    _lib.cpSpaceGetSleepTimeThreshold,
    _lib.cpSpaceGetCollisionSlop,
    _lib.cpSpaceGetCollisionBias,
    _lib.cpSpaceGetCollisionPersistence,
)


class Rewind:
    """Sets a space back to what it is now.

    Args:
        space: as it was built, without a step.
        parts: its bodies but the static one, with their shapes, all in the order in which they were added.
    """

    def __init__(
        self, space: pymunk.Space, parts: Sequence[tuple[pymunk.Body, Sequence[pymunk.Shape]]]
    ) -> None:
        self.space = space
        self._bodies = [body._body for body, _ in parts]
        self._shapes = [[shape._shape for shape in shapes] for _, shapes in parts]
        self._first_id = min(_lib.cpShapeGetHashID(shape) for shapes in self._shapes for shape in shapes)
        self._held = tuple(dict(held) for held in self._contents())
        self._settings = self._read_settings()
        self._take_out()
        self._bytes = [_saved(body, _BODY_BYTES) for body in self._bodies]
        self._bytes += [_saved(shape, _SHAPE_BYTES) for shapes in self._shapes for shape in shapes]
        self._put_in()

    def possible(self) -> bool:
        """Whether the space holds what it held and has the settings that it had."""
        return self._contents() == self._held and self._read_settings() == self._settings

    def __call__(self) -> None:
        """Rewind; only where it is `possible`."""
        self._take_out()
        for pointer, content in self._bytes:
            _ffi.memmove(pointer, content, len(content))
        _lib.cpSpaceSetCurrentTimeStep(self.space._space, 0.0)
        self._put_in()

    def _take_out(self) -> None:
        space = self.space._space
        for body, shapes in zip(self._bodies, self._shapes, strict=True):
            for shape in shapes:
                _lib.cpSpaceRemoveShape(space, shape)
            _lib.cpSpaceRemoveBody(space, body)

    def _put_in(self) -> None:
        space = self.space._space
        _lib.cpSpaceSetShapeIDCounter(space, self._first_id)
        for body, shapes in zip(self._bodies, self._shapes, strict=True):
            _lib.cpSpaceAddBody(space, body)
            for shape in shapes:
                _lib.cpSpaceAddShape(space, shape)

    def _contents(self) -> tuple[dict, ...]:
        space = self.space
        return space._shapes, space._bodies, space._constraints, space._handlers

    def _read_settings(self) -> list[float]:
        space = self.space._space
        gravity = _lib.cpSpaceGetGravity(space)
        return [gravity.x, gravity.y, *(setting(space) for setting in _SETTINGS)]


def _saved(pointer: Any, size: int) -> tuple[Any, bytes]:
    memory = _ffi.cast("char *", pointer)
    return memory, bytes(_ffi.buffer(memory, size))
