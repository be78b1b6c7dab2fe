# SPDX-License-Identifier: Apache-2.0

"""Images in, predictions out, in the same order, while the next ones are being read and computed.

A thread reads images and starts requests; the caller takes them back in order of their start, and so gets each result
as soon as it is there, even where the next image is late. The number of requests bounds the memory: a caller that is
slow holds up the reading. Requests are OpenVINO's asynchronous ones, handed round here and not by its
``AsyncInferQueue``, which says nothing of an image whose inference fails: whoever waits for that image waits for ever.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING

import numpy as np

from anomalib_crad.data.image_files import READ_ERRORS
from anomalib_crad.deploy.frames import read_frame

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import openvino
    from numpy.typing import NDArray

    from anomalib_crad.deploy.frames import Frame
    from anomalib_crad.deploy.run import EdgeModel
    from anomalib_crad.prediction import Prediction

#: Requests for each that the device works on at a time, so that one is waiting whenever another has finished.
_REQUESTS_PER_STREAM = 2


@dataclass(frozen=True)
class StreamResult:
    """Result for one image of a stream.

    Attributes:
        index: Its place in the stream, from 0.
        name: The file, or ``"frame <index>"``.
        image: Height x width x 3 bytes; ``None`` if it could not be read.
        prediction: What the model says of it; ``None`` if it was skipped.
        error: Why it was skipped, or ``None``.
    """

    index: int
    name: str
    image: NDArray[np.uint8] | None = None
    prediction: Prediction | None = None
    error: str | None = None


@dataclass(frozen=True)
class _Started:
    """A request on its way."""

    index: int
    name: str
    image: NDArray[np.uint8]
    request: openvino.InferRequest


def stream(model: EdgeModel, frames: Iterable[Frame]) -> Iterator[StreamResult]:
    """Predict a stream of images.

    An image that cannot be read, or that the model cannot take, is a result with an error; the stream goes on.

    Args:
        model: The model, compiled for throughput.
        frames: Files or pixels, from a list or from a camera; read in another thread, a few images ahead.

    Yields:
        A result for each image, in order.

    Raises:
        RuntimeError: If OpenVINO fails; images that can be read do not cause that by themselves.
        Exception: What ``frames`` itself raises.
    """
    feeder = _Feeder(model, frames)
    # A daemon, since it may wait for a camera that never delivers when the caller has long left.
    threading.Thread(target=feeder.run, daemon=True).start()
    try:
        while (entry := feeder.started.get()) is not None:
            if isinstance(entry, BaseException):
                raise entry
            if isinstance(entry, StreamResult):
                yield entry
            else:
                result = _finish(model, entry)
                feeder.idle.put(entry.request)
                yield result
    finally:
        feeder.stop()


class _Feeder:
    """Reads images and starts requests, in a thread of its own.

    Args:
        model: The model.
        frames: The images.
    """

    def __init__(self, model: EdgeModel, frames: Iterable[Frame]) -> None:
        self._model = model
        self._frames = frames
        self._stopped = threading.Event()
        #: What was started, in order, and images that could not be; ``None`` is the end, an exception a broken one.
        self.started: SimpleQueue[_Started | StreamResult | BaseException | None] = SimpleQueue()
        self.idle: SimpleQueue[openvino.InferRequest | None] = SimpleQueue()
        streams = model.compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        for _ in range(_REQUESTS_PER_STREAM * streams):
            self.idle.put(model.compiled.create_infer_request())

    def stop(self) -> None:
        """Start nothing more."""
        self._stopped.set()
        self.idle.put(None)  # wakes the thread if it waits for a request

    def run(self) -> None:
        """Go through the images, until there are no more or the caller has left."""
        end: BaseException | None = None
        try:
            for index, frame in enumerate(self._frames):
                self._start(index, frame)
                if self._stopped.is_set():
                    break
        except BaseException as error:  # noqa: BLE001 - the caller's thread raises it
            end = error
        self.started.put(end)

    def _start(self, index: int, frame: Frame) -> None:
        name = f"frame {index}" if isinstance(frame, np.ndarray) else str(frame)
        try:
            image = read_frame(frame)
            pixels = self._model.to_input(image)
        except READ_ERRORS as error:
            self.started.put(StreamResult(index, name, error=_text(error)))
            return
        request = self.idle.get()
        if request is not None:
            request.start_async({0: pixels})
            self.started.put(_Started(index, name, image, request))


def _finish(model: EdgeModel, entry: _Started) -> StreamResult:
    """Wait for a request and read it."""
    try:
        entry.request.wait()
    except RuntimeError as error:
        # Not skipped: after a failure OpenVINO's streams go on failing with images that are as they should be.
        msg = f"OpenVINO failed on '{entry.name}' ({entry.image.shape[0]} x {entry.image.shape[1]}): {_text(error)}"
        raise RuntimeError(msg) from error
    prediction = model.to_prediction(entry.request, entry.name)
    return StreamResult(entry.index, entry.name, entry.image, prediction)


def _text(error: Exception) -> str:
    """One line of a message, or the kind of the error."""
    return " ".join(str(error).split()) or type(error).__name__
