# SPDX-License-Identifier: Apache-2.0

"""Predict a stream of images in order, while the next ones are being read and computed.

A thread reads images and starts OpenVINO's asynchronous requests. The caller waits for the requests in the order of
their start and so gets each result as soon as it is ready, even if the next image is late. The number of requests
limits the memory: a slow caller slows the reading down. OpenVINO's own ``AsyncInferQueue`` is not used: it reports
nothing about an image whose inference fails, so that a caller would wait for that image for ever.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING

import numpy as np

from anomalib_crad.data.image_files import READ_ERRORS
from anomalib_crad.deploy.run import read_frame

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import openvino
    from numpy.typing import NDArray

    from anomalib_crad.deploy.run import EdgeModel, Frame
    from anomalib_crad.prediction import Prediction

#: Two requests for each one that the device computes at a time, so that one waits when another has finished.
_REQUESTS_PER_STREAM = 2


@dataclass(frozen=True)
class StreamResult:
    """Result for one image of a stream.

    Attributes:
        index: Position of the image in the stream, from 0.
        name: The file, or ``"frame <index>"``.
        image: Height x width x 3 bytes; ``None`` if the image was skipped. Defaults to ``None``.
        prediction: Prediction of the model; ``None`` if the image was skipped. Defaults to ``None``.
        error: Why the image was skipped, or ``None``. Defaults to ``None``.
    """

    index: int
    name: str
    image: NDArray[np.uint8] | None = None
    prediction: Prediction | None = None
    error: str | None = None


@dataclass(frozen=True)
class _Started:
    """A request that has been started."""

    index: int
    name: str
    image: NDArray[np.uint8]
    request: openvino.InferRequest


def stream(model: EdgeModel, frames: Iterable[Frame]) -> Iterator[StreamResult]:
    """Predict a stream of images.

    An image that cannot be read, or that the model cannot take, gives a result with an error; the stream continues.

    Args:
        model: The model, compiled for throughput.
        frames: Files or pixels, from a list or from a camera; another thread reads them, a few images ahead.

    Yields:
        A result for each image, in order.

    Raises:
        RuntimeError: If OpenVINO fails; a readable image alone does not cause that.
        TypeError: If one of ``frames`` is neither a path nor an array.
        Exception: Whatever ``frames`` raises.
    """
    feeder = _Feeder(model, frames)
    # A daemon, because the thread may still wait for a camera when the caller has long stopped.
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
        #: Started requests and skipped images, in order; at the end ``None``, or the exception that ended the stream.
        self.started: SimpleQueue[_Started | StreamResult | BaseException | None] = SimpleQueue()
        self.idle: SimpleQueue[openvino.InferRequest | None] = SimpleQueue()
        streams = model.compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        for _ in range(_REQUESTS_PER_STREAM * streams):
            self.idle.put(model.compiled.create_infer_request())

    def stop(self) -> None:
        """Start no more requests."""
        self._stopped.set()
        self.idle.put(None)  # wakes the thread if it waits for a request

    def run(self) -> None:
        """Read images and start requests, until there are no more images or the caller has stopped."""
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
    """Wait for a request and read its outputs."""
    try:
        entry.request.wait()
    except RuntimeError as error:
        # The stream ends: after a failure OpenVINO's streams keep failing, with good images too.
        msg = f"OpenVINO failed on '{entry.name}' ({entry.image.shape[0]} x {entry.image.shape[1]}): {_text(error)}"
        raise RuntimeError(msg) from error
    prediction = model.to_prediction(entry.request, entry.name)
    return StreamResult(entry.index, entry.name, entry.image, prediction)


def _text(error: Exception) -> str:
    """Return the message of an error in one line, or its class if there is no message."""
    return " ".join(str(error).split()) or type(error).__name__
