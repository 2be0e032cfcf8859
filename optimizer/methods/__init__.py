"""Every other method of ``--method``: the published loop and its ablations, user-prompt search, SPRIG, GEPA, fixed
baselines.
"""
