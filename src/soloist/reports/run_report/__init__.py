"""The report of a run as one file of HTML.

`gathering` reads the files of a run into facts (`values`). The modules of sections turn facts into sentences and
tables, `figures` draws facts, and `page` puts all of it into one file.
"""
