"""Bitshuffle-lz4 written and read the slow, obvious way; see lz4_Block_format.md and bitshuffle's own sources."""

import numpy as np


class Damaged(Exception):
    pass


def naive_lz4(packed: bytes, size: int) -> bytes:
    """Decode one LZ4 block that must fill exactly `size` bytes."""
    source, out = list(reversed(packed)), bytearray()

    def take():
        if not source:
            raise Damaged
        return source.pop()

    def length_of(nibble):
        length = nibble
        while nibble == 15:
            more = take()
            length += more
            if more != 255:
                break
        return length

    while True:
        token = take()
        for _ in range(length_of(token >> 4)):
            out.append(take())
        if not source:
            break
        offset = take() | take() << 8
        length = length_of(token & 15) + 4
        if offset == 0 or offset > len(out) or len(out) + length > size:
            raise Damaged
        for _ in range(length):
            out.append(out[-offset])
    if len(out) != size:
        raise Damaged
    return bytes(out)


def naive_decompress(chunk: bytes, shape, dtype) -> np.ndarray:
    """Decode a chunk of HDF5's filter 32008 with lz4."""
    dtype = np.dtype(dtype)
    n_pixels, size = int(np.prod(shape)), dtype.itemsize
    if len(chunk) < 12 or int.from_bytes(chunk[:8], "big") != n_pixels * size:
        raise Damaged
    block = int.from_bytes(chunk[8:12], "big") // size
    if block == 0:
        block = max(8192 // size // 8 * 8, 128)
    if block % 8:
        raise Damaged
    out, i = bytearray(), 12
    while n_pixels - len(out) // size >= 8:
        n = min(block, (n_pixels - len(out) // size) // 8 * 8)
        if len(chunk) < i + 4:
            raise Damaged
        length = int.from_bytes(chunk[i : i + 4], "big")
        i += 4
        if len(chunk) < i + length:
            raise Damaged
        planes = naive_lz4(chunk[i : i + length], n * size)
        i += length
        for pixel in range(n):
            number = 0
            for p in range(8 * size):
                byte = planes[p * n // 8 + pixel // 8]
                number |= (byte >> pixel % 8 & 1) << p
            out += number.to_bytes(size, "little")
    rest = n_pixels * size - len(out)
    if len(chunk) < i + rest:
        raise Damaged
    out += chunk[i : i + rest]
    return np.frombuffer(bytes(out), dtype).reshape(shape)


def naive_compress(image: np.ndarray, block: int, lz4) -> bytes:
    """Encode a chunk in blocks of so many pixels, whose bit planes lz4 encodes."""
    size, numbers = image.itemsize, image.reshape(-1)
    chunk = image.nbytes.to_bytes(8, "big") + (block * size).to_bytes(4, "big")
    n_blocked = len(numbers) // 8 * 8
    for first in range(0, n_blocked, block):
        part = numbers[first : min(first + block, n_blocked)]
        bits = np.unpackbits(part.view(np.uint8).reshape(len(part), size), axis=1, bitorder="little")
        packed = lz4(np.packbits(bits.T, axis=1, bitorder="little").tobytes())
        chunk += len(packed).to_bytes(4, "big") + packed
    return chunk + numbers[n_blocked:].tobytes()


def sequence(data: bytes, offset: int | None = None, length: int = 4) -> bytes:
    """Encode one sequence of LZ4: literals, then a match unless it is the last."""

    def more(number):
        return b"" if number < 15 else b"\xff" * ((number - 15) // 255) + bytes([(number - 15) % 255])

    n, m = len(data), length - 4 if offset is not None else 0
    packed = bytes([min(n, 15) << 4 | min(m, 15)]) + more(n) + data
    return packed if offset is None else packed + offset.to_bytes(2, "little") + more(m)


def naive_lit(image: np.ndarray, cut: np.ndarray, top=None, sentinels=()) -> list[tuple[int, int, int]]:
    """List row, column and counts of the lit pixels."""
    top = np.iinfo(image.dtype).max if top is None else top
    return [
        (r, c, raw)
        for r, counts in enumerate(image.tolist())
        for c, raw in enumerate(counts)
        if cut[r, c] < raw <= top and raw not in sentinels
    ]


def naive_runs(lit) -> list[tuple[int, int, int]]:
    """List row, column and index of the first pixel of each run of neighbours in a row."""
    before = [(None, None, None), *lit]
    return [(r, c, k) for k, (r, c, _) in enumerate(lit) if before[k][:2] != (r, c - 1)]
