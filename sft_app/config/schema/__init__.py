"""The typed settings: one module a group, each mirroring the folder of that name in conf/.

The docstring of a class, of a field and of an enum's member is what `sft-train --help GROUP`, the
JSON schema and docs/reference/settings.md say of it: they are written for users.
"""
