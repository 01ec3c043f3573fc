"""The coloured text of sft-plan data.preview=N."""

from rich.console import Console

from sft_app.config.schema.data import Overlong
from sft_app.data.preview import SUPERVISED, preview
from tests.data.chat_files import prepare, settings


def test_supervised_text_is_green_and_the_rest_is_dim(chats, tmp_path, tokenizer):
    prepared = prepare(settings(chats, tmp_path, overlong=Overlong.drop), tokenizer)
    console = Console(force_terminal=True, width=100, color_system="standard")
    with console.capture() as captured:
        console.print(preview(prepared, tokenizer, 2))
    text = captured.get()
    assert "example 1" in text and "example 2" in text and "example 3" not in text
    green = console.get_style(SUPERVISED).render(
        "⟦The answer is", color_system=console._color_system
    )
    assert green.removesuffix("\x1b[0m") in text


def test_without_colours_what_is_supervised_stands_in_brackets(chats, tmp_path, tokenizer):
    prepared = prepare(settings(chats, tmp_path, overlong=Overlong.drop), tokenizer)
    console = Console(color_system=None, width=1000)
    with console.capture() as captured:
        console.print(preview(prepared, tokenizer, 1))
    text = captured.get()
    assert "\x1b" not in text
    legend, example = text.split("only read", 1)
    assert "⟦supervised⟧" in legend
    assert example.count("⟦") == example.count("⟧") > 0


def test_more_examples_than_there_are(chats, tmp_path, tokenizer):
    prepared = prepare(settings(chats, tmp_path), tokenizer)
    assert len(preview(prepared, tokenizer, 10_000).renderables) > 50
