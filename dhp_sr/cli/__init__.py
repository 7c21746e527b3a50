"""Services behind the entry points: one module for a command, named after it.

An entry point (`dhp_sr/export.py`) parses its arguments by `parsers` and calls one function here
(`export.run_export`); `utils.errors.exit_code` turns its outcome into an exit code: 0 only for
success, 2 for a user's mistake. `process` holds the global state that commands alone may touch.

`compress` has a module for each of its steps: start with `compress_prepare`, which calls most of
them in their order.
"""
