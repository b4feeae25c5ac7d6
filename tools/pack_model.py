#!/usr/bin/env python3
"""Pack `minilm-l6-w8g64.safetensors` into the file the embedder reads in place.

The packed file is the memory image of `struct Weights` in `src/adapter/local/weights.rs`;
`assets/models/all-minilm-l6-v2/README.md` describes it in prose. The same input always
gives the same bytes. Needs nothing but the standard library.

usage: pack_model.py minilm-l6-w8g64.safetensors minilm-l6-w8g64.bin
"""

import argparse
import hashlib
import json
import struct
from pathlib import Path

MAGIC = b"MINILMQ8"
VERSION = 1
ALIGN = 64

LAYERS = 6
WIDTH = 384  # features of a token, and inputs of every packed tile
BLOCK = 32  # outputs of a tile
GROUP = 64  # inputs that share a scale
FLOAT = 4  # bytes of a float32
TO_UNSIGNED = bytes((byte + 128) % 256 for byte in range(256))


class Safetensors:
    """Read access to the tensors of a safetensors file."""

    def __init__(self, path: Path):
        raw = path.read_bytes()
        (length,) = struct.unpack_from("<Q", raw)
        self.header = json.loads(raw[8 : 8 + length])
        self.body = memoryview(raw)[8 + length :]
        self.sha256 = hashlib.sha256(raw).digest()

    def tensor(self, name: str, dtype: str, *shape: int) -> memoryview:
        entry = self.header[name]
        if (entry["dtype"], tuple(entry["shape"])) != (dtype, shape):
            raise SystemExit(f"{name}: expected {dtype} {shape}, found {entry}")
        start, end = entry["data_offsets"]
        return self.body[start:end]

    def floats(self, name: str, *shape: int) -> memoryview:
        return self.tensor(name, "F32", *shape)


class Packed:
    """The output: tensors one after the other, each starting at a multiple of 64 bytes."""

    def __init__(self):
        self.data = bytearray()

    def add(self, tensor: bytes | memoryview):
        self.data += tensor
        self.data += bytes(-len(self.data) % ALIGN)


def tile(weights: memoryview, scales: memoryview, inputs: int, output: int, first: int) -> bytes:
    """Weights and scales of 32 outputs from `output` on and 384 inputs from `first` on."""
    packed = bytearray(BLOCK * WIDTH)
    for lane in range(BLOCK):
        start = (output + lane) * inputs + first
        row = bytes(weights[start : start + WIDTH]).translate(TO_UNSIGNED)
        for byte in range(4):
            packed[lane * 4 + byte :: BLOCK * 4] = row[byte::4]
    groups = inputs // GROUP
    for group in range(first // GROUP, (first + WIDTH) // GROUP):
        for lane in range(BLOCK):
            start = ((output + lane) * groups + group) * FLOAT
            packed += scales[start : start + FLOAT]
    return bytes(packed)


def pack(source: Safetensors) -> bytes:
    out = Packed()

    def norm(name: str):
        out.add(source.floats(f"{name}.w", WIDTH))
        out.add(source.floats(f"{name}.b", WIDTH))

    def linear(name: str, outputs: int, inputs: int):
        """Returns a function that adds the tiles of some outputs and 384 inputs."""
        weights = source.tensor(f"{name}.q", "I8", outputs, inputs)
        scales = source.floats(f"{name}.scale", outputs, inputs // GROUP)

        def add(output_range: range, first_input: int):
            for output in output_range:
                out.add(tile(weights, scales, inputs, output, first_input))

        return add

    out.add(struct.pack("<8sI4x32s", MAGIC, VERSION, source.sha256))
    words = source.header["embed.word.q"]["shape"][0]
    out.add(source.tensor("embed.word.q", "I8", words, WIDTH))
    out.add(source.floats("embed.word.scale", words))
    out.add(source.floats("embed.pos", 256, WIDTH))
    norm("embed.ln")

    for layer in range(LAYERS):
        prefix = f"l{layer}"

        out.add(source.floats(f"{prefix}.qkv.inv_smooth", WIDTH))
        out.add(source.floats(f"{prefix}.qkv.bias", 3 * WIDTH))
        linear(f"{prefix}.qkv", 3 * WIDTH, WIDTH)(range(0, 3 * WIDTH, BLOCK), 0)

        out.add(source.floats(f"{prefix}.o.inv_smooth", WIDTH))
        out.add(source.floats(f"{prefix}.o.bias", WIDTH))
        linear(f"{prefix}.o", WIDTH, WIDTH)(range(0, WIDTH, BLOCK), 0)
        norm(f"{prefix}.ln1")

        up = linear(f"{prefix}.ff1", 4 * WIDTH, WIDTH)
        down = linear(f"{prefix}.ff2", WIDTH, 4 * WIDTH)
        up_bias = source.floats(f"{prefix}.ff1.bias", 4 * WIDTH)
        down_inv_smooth = source.floats(f"{prefix}.ff2.inv_smooth", 4 * WIDTH)
        out.add(source.floats(f"{prefix}.ff1.inv_smooth", WIDTH))
        for first in range(0, 4 * WIDTH, WIDTH):
            part = slice(first * FLOAT, (first + WIDTH) * FLOAT)
            out.add(up_bias[part])
            up(range(first, first + WIDTH, BLOCK), 0)
            out.add(down_inv_smooth[part])
            down(range(0, WIDTH, BLOCK), first)
        out.add(source.floats(f"{prefix}.ff2.bias", WIDTH))
        norm(f"{prefix}.ln2")

    return bytes(out.data)


def main():
    parser = argparse.ArgumentParser(description="pack the int8 MiniLM weights")
    parser.add_argument("source", type=Path, help="minilm-l6-w8g64.safetensors")
    parser.add_argument("target", type=Path, help="the packed file to write")
    arguments = parser.parse_args()
    packed = pack(Safetensors(arguments.source))
    arguments.target.write_bytes(packed)
    print(f"{hashlib.sha256(packed).hexdigest()}  {arguments.target.name}  {len(packed)} bytes")


if __name__ == "__main__":
    main()
