"""Small Llamas of our own, trained in minutes from what is installed, for sweeps on a CPU.

    python -m sft_app.pretrain FOLDER                           the one of `make sweep`
    python -m sft_app.pretrain FOLDER --recipe needle_llama     the one of `make leaderboard`
    python -m sft_app.pretrain FOLDER --recipe needle_llama_2m    the same, at four times the size

Each is made unless it is there already; the recipes are the YAML files of this folder.

text ─▶ tokenizer ─▶ rows of tokens ─▶ model, at a short context that the sweep then extends.
"""
