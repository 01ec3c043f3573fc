"""From files as people have them to packed batches: a chain of plain functions.

    sources -> read -> formats -> odd -> select -> render -> tokenize -> store
    store -> fit -> pack -> dataset -> collate

`prepare.prepare_data` walks the chain; each module is one link and can be read on its own.
"""
