"""Everything about one run on a page, and about all runs of a variant in a table.

In goes a run folder; out comes one HTML file that needs no network. Read `page.py` first, then
`sections.py`.
"""
