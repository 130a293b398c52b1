"""soloist beside other engines: one run, the same texts, the same threads, in turn.

`python -m benchmarks.encode` is the command. Each engine is a process of its own (`worker`), some in a virtual
environment of their own; `engines` says which there are, `rounds` measures, `summary`, `table` and `plot` report.
"""
