"""Run by a Python of its own that has transformers 4.57: what that version makes of directories.

python v4_reader.py JOBS.json: reads {name: directory}, writes {name: findings} beside it as .out.
"""

import json
import sys
from pathlib import Path

import torch
import transformers

IDS = [1, 20, 33, 47, 60, 75, 90, 105, 120, 131, 145, 160, 177, 190, 201, 220]
TEXT = "Hello  world<|im_end|>\n    def f(x): <|im_start|>user"


def read(directory: Path) -> dict[str, object]:
    config = transformers.AutoConfig.from_pretrained(directory)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    auto = transformers.AutoModelForCausalLM
    if (directory / "config.json").read_text().find('"vision_config"') > 0:
        auto = transformers.AutoModelForImageTextToText
    model, info = auto.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    rotary = {
        name: buffer.double().tolist()
        for name, buffer in model.named_buffers()
        if name.endswith("inv_freq") and "vision" not in name
    }
    with torch.no_grad():
        logits = model.eval()(input_ids=torch.tensor([IDS]), use_cache=False).logits[0]
    return {
        "missing": sorted(info["missing_keys"]),
        "unexpected": sorted(info["unexpected_keys"]),
        "ids": tokenizer(TEXT)["input_ids"],
        "chat": tokenizer.apply_chat_template(
            [{"role": "user", "content": "Q"}], tokenize=True, add_generation_prompt=True
        ),
        "special": sorted(tokenizer.all_special_tokens),
        "max_length": tokenizer.model_max_length,
        "inv_freq": rotary,
        "logits": logits.tolist(),
        "generation": model.generation_config.to_diff_dict(),
        "text_length": config.get_text_config().max_position_embeddings,
    }


def main(jobs: Path) -> None:
    torch.set_num_threads(1)
    assert transformers.__version__.startswith("4.57"), transformers.__version__
    found = {}
    for name, directory in json.loads(jobs.read_text()).items():
        try:
            found[name] = read(Path(directory))
        except Exception as error:
            found[name] = {"error": f"{type(error).__name__}: {error}"[:400]}
    jobs.with_suffix(".out").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
