"""From files as people have them to packed batches: a chain of plain functions.

    read: sources -> read_files -> conversation_reader
    parse: formats -> repair
    chat: render -> tokenize
    store: tokenize_pool -> token_store, found again by token_cache
    batches: train_eval_split -> fit_rows -> pack -> datasets -> collators

`prepare_data.prepare_data` walks the chain; each module is one link and can be read on its own.
"""
