"""A tiny Llama of our own, trained in minutes from what is installed: the subject of `make sweep`.

    python -m sft_app.pretrain FOLDER      makes it there, unless it is there already

text ─▶ tokenizer ─▶ token stream ─▶ model, at a short context that the sweep then extends.
"""
