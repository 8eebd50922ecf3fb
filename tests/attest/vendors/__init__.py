"""Evidence in the vendors' own formats, made under roots of these tests: real signatures that mean nothing.

Nothing in the package can import this. Production roots refuse all of it, and tests say so.
"""
