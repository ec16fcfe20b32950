"""A GGUF file with its matrices in another type, everything else as it is: what llama.cpp is measured on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, quants

FILE_TYPES = {"BF16": 32, "Q8_0": 7, "F32": 0}


def write(source: Path, target: Path, kind: str) -> None:
    """Write `target` with all matrices of `source` in the type `kind`; vectors are fp32."""
    reader = GGUFReader(source)
    writer = GGUFWriter(target, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value = FILE_TYPES[kind] if name == "general.file_type" else field.contents()
        inner = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(name, value, field.types[0], sub_type=inner)
    for tensor in reader.tensors:
        numbers = quants.dequantize(tensor.data, tensor.tensor_type)
        numbers = numbers.reshape(tuple(int(size) for size in tensor.shape[::-1])).astype(np.float32)
        own = GGMLQuantizationType[kind] if numbers.ndim > 1 else GGMLQuantizationType.F32
        writer.add_tensor(tensor.name, quants.quantize(numbers, own), raw_dtype=own)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
