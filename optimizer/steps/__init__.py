"""The steps of the default search, told in ``optimizer/metaspo.py``: plan, preflight, inner loop, race, archive,
confirmation.
"""
