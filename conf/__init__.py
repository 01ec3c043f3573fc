"""The YAML groups, importable as ``sft_app.conf`` from a checkout and from an installed wheel."""
