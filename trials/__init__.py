"""What a trial computes: data, models, the training engine and one module for each problem.

Nothing here imports Ray or `farm`: a trial runs as well from a notebook or a test as on a cluster.
"""
