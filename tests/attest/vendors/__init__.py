"""Makes vendor-shaped evidence under roots of its own, for what was never recorded.

It can convince nobody: production trusts the vendors' roots only, and nothing in the package imports it.
"""
